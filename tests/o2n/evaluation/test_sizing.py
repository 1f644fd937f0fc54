"""The simulation behind the sizing page: it keeps to queueing theory where that has an answer, and to common sense."""

import numpy as np
import pytest

from o2n.evaluation.sizing import (
    BUSY,
    IN_TIME,
    Branch,
    bank_bytes,
    bottleneck,
    capacity,
    needed,
    pointer_reads,
    popularity,
    simulate,
)
from o2n.store import CategoryStore
from tests.helpers import QUICK

PLAIN = Branch("plain", seconds=0.05, base=1e9)
CACHED = Branch("cached", seconds=0.05, base=1e9, held=10e6, budget=1e9)


def test_one_server_waits_as_theory_says() -> None:
    """M/D/1: at a load of one half 95 of 100 are through in 3.0506 service times (Erlang, 1909)."""
    one_by_one = Branch("server", seconds=1.0, base=0, batch=1)
    found = simulate(one_by_one, rate=0.5, categories=1, pictures=100_000)
    assert found.busy == pytest.approx(0.5, abs=0.01)
    assert found.p95 == pytest.approx(3.0506, rel=0.03)
    assert simulate(one_by_one, rate=0.05, categories=1).p95 == pytest.approx(1.0, abs=0.3)


def test_what_fits_a_cache_is_never_missed_and_what_does_not_as_often_as_it_is_asked_for() -> None:
    assert simulate(CACHED, rate=5, categories=100).missed == 0
    many = simulate(CACHED, rate=5, categories=10_000, pictures=20_000).missed
    best = 1 - popularity(10_000)[:100].sum()  # of a cache that knows what is popular
    assert best < many < 1
    assert simulate(PLAIN, rate=5, categories=10_000).missed == 0


@pytest.mark.parametrize("categories", [1, 100, 10_000])
def test_a_replica_is_in_time_at_its_capacity_and_not_far_above(categories: int) -> None:
    able, found = capacity(CACHED, categories)
    assert found.busy <= BUSY
    assert found.p95 <= IN_TIME + CACHED.load
    above = simulate(CACHED, able * 1.3, categories)
    assert above.busy > BUSY or above.p95 > IN_TIME + CACHED.load


@pytest.mark.parametrize("branch", [PLAIN, CACHED])
def test_more_of_anything_never_needs_less(branch: Branch) -> None:
    for few, many in ((1, 100), (100, 10_000)):
        for pictures in (1e6, 1e8):
            less, more = needed(branch, few, pictures), needed(branch, many, pictures)
            assert less.replicas <= more.replicas
            assert less.memory <= more.memory
            assert less.gets <= more.gets
            tenfold = needed(branch, few, 10 * pictures)
            assert less.replicas < tenfold.replicas
            assert less.hours < tenfold.hours <= 24 * tenfold.replicas
    assert pointer_reads(100, 1e7, 10) < pointer_reads(100, 1e7, 20) < 100 * 20


def test_no_day_is_done_with_less_than_its_work() -> None:
    for pictures in (1e6, 1e9):
        need = needed(PLAIN, 1, pictures)
        assert need.hours * 3600 >= pictures * PLAIN.seconds
        assert need.replicas >= pictures / 86_400 * PLAIN.seconds


def test_what_gives_way_first_is_named() -> None:
    slow = Branch("slow", seconds=0.5, base=1e9)
    assert bottleneck([needed(PLAIN, 1, 1e8), needed(slow, 1, 1e8)], reads=1).startswith("slow: ")
    assert bottleneck([needed(PLAIN, 1, 1e8)], reads=6000).startswith("6,000 reads of S3")
    assert "wait for their category" in bottleneck([needed(CACHED, 10_000, 1e6), needed(slow, 10_000, 1e6)], reads=1)
    assert bottleneck([needed(PLAIN, 1, 1000)], reads=1).startswith("none")


def test_the_size_of_a_bank_is_that_of_a_real_one(published: CategoryStore) -> None:
    blob = published.manifest(published.current("checks")).blobs["features"]
    assert bank_bytes(QUICK, references=2, grid=16, width=128) == pytest.approx(blob.size, abs=1000)


def test_popularity_is_a_distribution_that_falls() -> None:
    shares = popularity(1000)
    assert shares.sum() == pytest.approx(1)
    assert np.all(np.diff(shares) < 0)
