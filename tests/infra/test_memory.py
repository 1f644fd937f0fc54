"""What processes hold: their own pages whole, shared ones in part."""

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import ForkContext, SpawnContext

import psutil
import pytest

from infra.local.memory import held_bytes

MIB = 1 << 20
SPAWN = multiprocessing.get_context("spawn")  # a process of its own: this one is as large as the tests before made it
FORK = multiprocessing.get_context("fork")


@contextmanager
def child(context: ForkContext | SpawnContext) -> Iterator[Connection]:
    """A process that holds so many bytes more whenever it is asked, or forks one that does, and tells what is held."""
    ours, theirs = multiprocessing.Pipe()
    process = context.Process(target=work, args=(theirs,))
    process.start()
    try:
        yield ours
    finally:
        ours.send(("end", 0))
        process.join()


def work(orders: Connection) -> None:
    held = []
    while True:
        what, size = orders.recv()
        if what == "end":
            return
        if what == "hold":
            held.append(b"\1" * size)
            orders.send(held_bytes(psutil.Process()))
        else:
            with child(FORK) as inner:
                inner.send(("hold", size))
                theirs = inner.recv()
                orders.send((held_bytes(psutil.Process()), theirs))


def asked(orders: Connection, what: str, size: int) -> object:
    orders.send((what, size))
    return orders.recv()


def test_pages_of_its_own_are_counted_whole() -> None:
    with child(SPAWN) as process:
        before = asked(process, "hold", 0)
        assert asked(process, "hold", 64 * MIB) - before == pytest.approx(64 * MIB, abs=4 * MIB)


def test_pages_that_two_share_are_counted_once() -> None:
    """A forked child has its parent's pages and none of its own but those that it writes."""
    with child(SPAWN) as process:
        alone = asked(process, "hold", 64 * MIB)
        parent, forked = asked(process, "fork", 8 * MIB)
    assert parent < alone - 24 * MIB, "half of what it shares is the child's"
    assert parent + forked == pytest.approx(alone + 8 * MIB, abs=8 * MIB)
