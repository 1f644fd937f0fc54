"""What processes hold: their own pages whole, shared ones in part."""

import multiprocessing
from multiprocessing.connection import Connection

import psutil

from infra.local.memory import held_bytes

MIB = 1 << 20


def hold(size: int, told: Connection) -> None:
    held = b"\1" * size
    told.send(len(held))
    told.recv()


def test_pages_of_its_own_are_counted_whole() -> None:
    before = held_bytes(psutil.Process())
    held = b"\1" * (64 * MIB)
    assert 60 * MIB < held_bytes(psutil.Process()) - before < 80 * MIB
    del held


def test_pages_that_two_share_are_counted_once() -> None:
    """A forked child has its parent's pages and none of its own but those that it writes."""
    context = multiprocessing.get_context("fork")
    parent = psutil.Process()
    held = b"\1" * (64 * MIB)
    alone = held_bytes(parent)
    ours, theirs = context.Pipe()
    child = context.Process(target=hold, args=(8 * MIB, theirs))
    child.start()
    try:
        ours.recv()
        both = held_bytes(parent) + held_bytes(psutil.Process(child.pid))
    finally:
        ours.send(None)
        child.join()
    assert alone <= both + 8 * MIB
    assert both < alone + 24 * MIB < alone + len(held)
