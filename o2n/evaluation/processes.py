"""Processes for a job's pieces of work, one thread each: figures then do not depend on how many cores a machine has."""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context


@contextmanager
def one_thread_processes(count: int) -> Iterator[ProcessPoolExecutor]:
    """`count` of them; with more threads sums come in another order, and training makes much of a last digit.

    What has not begun when the block is left, as by an error, is not begun any more.
    """
    pool = ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=_one_thread)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _one_thread() -> None:
    import faiss
    import torch

    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
