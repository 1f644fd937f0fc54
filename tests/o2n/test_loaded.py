"""What is kept of what was loaded: within its budget, the least recently used first, for any number of threads."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from o2n.category import VersionRef
from o2n.errors import IntegrityError
from o2n.loaded import Loaded


def ref(name: str) -> VersionRef:
    return VersionRef(name, "0" * 16)


def test_the_least_recently_used_goes_first() -> None:
    loaded = Loaded(lambda ref: ref.category, lambda value: 10, budget=30)
    for name in "abc":
        assert loaded.get(ref(name)) == name
    loaded.get(ref("a"))
    loaded.get(ref("d"))
    assert [name for name in "abcd" if ref(name) in loaded] == ["a", "c", "d"]
    assert (loaded.loads, loaded.hits, loaded.evictions, loaded.nbytes) == (4, 1, 1, 30)
    loaded.get(ref("b"))
    assert (loaded.loads, loaded.evictions, loaded.nbytes) == (5, 2, 30)


def test_one_large_value_takes_the_place_of_many_small_ones() -> None:
    loaded = Loaded(lambda ref: int(ref.category), lambda value: value, budget=100)
    for size in ("20", "21", "22", "90"):
        loaded.get(ref(size))
    assert (loaded.evictions, loaded.nbytes) == (3, 90)


def test_a_value_over_the_whole_budget_is_not_kept() -> None:
    loaded = Loaded(lambda ref: ref.category, lambda value: 101, budget=100)
    assert loaded.get(ref("a")) == loaded.get(ref("a")) == "a"
    assert (loaded.loads, loaded.nbytes) == (2, 0)


def test_an_error_is_told_and_forgotten() -> None:
    broken = True

    def load(ref: VersionRef) -> str:
        if broken:
            raise IntegrityError("broken")
        return "whole"

    loaded = Loaded(load, len, budget=100)
    with pytest.raises(IntegrityError):
        loaded.get(ref("a"))
    broken = False
    assert loaded.get(ref("a")) == "whole"


def test_one_that_loads_slowly_holds_nobody_up() -> None:
    slowly = threading.Event()

    def load(ref: VersionRef) -> str:
        if ref.category == "slow":
            assert slowly.wait(60)
        return ref.category

    loaded = Loaded(load, len, budget=100)
    loaded.get(ref("quick"))
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(loaded.get, ref("slow"))
        assert loaded.get(ref("quick")) == "quick"
        assert loaded.get(ref("other")) == "other"
        assert not waiting.done()
        slowly.set()
        assert waiting.result(60) == "slow"


def test_threads_never_break_the_budget() -> None:
    loaded = Loaded(lambda ref: ref.category, lambda value: 7, budget=50)

    def use(number: int) -> bool:
        name = str(number * 31 % 23)
        return loaded.get(ref(name)) == name and loaded.nbytes <= 50

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(use, range(2000)))
    assert loaded.loads + loaded.hits == 2000
