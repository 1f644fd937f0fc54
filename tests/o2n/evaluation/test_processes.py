"""Pieces of work in processes of their own: one thread each, and none begun after an error."""

import time
from concurrent.futures import as_completed
from pathlib import Path

import faiss
import pytest
import torch

from o2n.evaluation.processes import one_thread_processes


def threads() -> tuple[int, int]:
    return torch.get_num_threads(), faiss.omp_get_max_threads()


def work(folder: Path, number: int) -> None:
    if number == 0:
        raise ValueError("the first")
    (folder / str(number)).touch()
    time.sleep(0.5)


def test_each_has_one_thread() -> None:
    with one_thread_processes(2) as pool:
        assert {pool.submit(threads).result() for _ in range(4)} == {(1, 1)}


def test_an_error_ends_what_has_not_begun(tmp_path: Path) -> None:
    with one_thread_processes(1) as pool:
        done = as_completed([pool.submit(work, tmp_path, number) for number in range(20)])
        with pytest.raises(ValueError, match="the first"):
            next(done).result()
    assert len(list(tmp_path.iterdir())) < 10
