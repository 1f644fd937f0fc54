"""Equation (5) and the bank: brute force, pictures that come and go, a budget of bytes."""

import math
import os
import subprocess
import sys
import threading
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from o2n import images
from o2n.bank import MemoryBank, coreset
from o2n.branches import NormalBranch
from o2n.feedback import accept_normal
from o2n.foundation import load_foundation
from o2n.normals import encode
from o2n.onboard import onboard
from o2n.profiles import Profile
from o2n.store import CategoryStore
from o2n.triplet import TripletScorer
from o2n.version import scales_in
from tests.helpers import QUICK, checks, unit

EXACT = {"atol": 1e-5, "rtol": 0.0}
WEIGHTS = st.sampled_from([0.0, 0.5, 3.0])


def brute_force(queries: Tensor, bank: Tensor, place_weight: float = 0.0) -> Tensor:
    """Eq. (5)'s inner term, and what it costs to be elsewhere, written out: float32 (B, L, G, D) and (N, L, G, D) ->
    (B, L, G)."""
    distance = 1 - torch.einsum("blgd,nlhd->blgnh", queries, bank)
    if place_weight:
        side = math.isqrt(queries.shape[2])
        places = torch.tensor([(row / side, column / side) for row in range(side) for column in range(side)])
        distance += place_weight * torch.cdist(places, places).square()[:, None]
    return distance.amin(dim=(-2, -1))


@given(
    n=st.integers(1, 5),
    levels=st.integers(1, 3),
    side=st.integers(1, 6),
    width=st.integers(2, 9),
    weight=WEIGHTS,
    seed=st.integers(0, 99),
)
@settings(max_examples=50, deadline=None)
def test_the_bank_is_brute_force(n: int, levels: int, side: int, width: int, weight: float, seed: int) -> None:
    bank, queries = unit(n, levels, side**2, width, seed=seed), unit(3, levels, side**2, width, seed=seed + 1)
    found = MemoryBank(bank, place_weight=weight).distance(queries)
    torch.testing.assert_close(found, brute_force(queries, bank, weight).clamp_min(0), **EXACT)
    assert MemoryBank(bank).nbytes == bank.nbytes


SEARCH = """
import hashlib, torch
from o2n.bank import MemoryBank
patches = torch.nn.functional.normalize(torch.randn(24, 3, 49, 128, generator=torch.Generator().manual_seed(0)), dim=-1)
distance = MemoryBank(patches[:20], place_weight=3.0).distance(patches[20:])
print(hashlib.sha256(distance.numpy().tobytes()).hexdigest())
"""


def test_a_distance_is_the_same_bits_whatever_the_number_of_threads() -> None:
    command = [sys.executable, "-c", SEARCH]
    found = {
        subprocess.run(
            command, env={**os.environ, "PYTHONPATH": ".", "OMP_NUM_THREADS": count}, capture_output=True, check=True
        ).stdout
        for count in ("1", "2", "3")
    }
    assert len(found) == 1


def test_without_a_place_weight_places_do_not_count_and_with_a_large_one_they_alone_do() -> None:
    bank, queries = unit(3, 2, 16, 8), unit(2, 2, 16, 8, seed=1)
    moved = queries.roll(5, dims=2)
    torch.testing.assert_close(
        MemoryBank(bank).distance(moved), MemoryBank(bank).distance(queries).roll(5, dims=2), **EXACT
    )
    at_its_place = (1 - torch.einsum("blgd,nlgd->blgn", moved, bank)).amin(dim=-1)
    torch.testing.assert_close(MemoryBank(bank, place_weight=100).distance(moved), at_its_place, atol=1e-4, rtol=0)


@given(added=st.lists(st.integers(1, 2), max_size=4), weight=WEIGHTS, seed=st.integers(0, 99), data=st.data())
@settings(max_examples=30, deadline=None)
def test_pictures_come_and_go_as_if_the_bank_had_been_made_without_them(
    added: list[int], weight: float, seed: int, data: st.DataObject
) -> None:
    made = unit(2 + sum(added), 2, 4, 5, seed=seed)
    bank, at = MemoryBank(made[:2], place_weight=weight), 2
    for count in added:
        assert bank.add(made[at : at + count]) == list(range(at, at + count))
        at += count
    gone = data.draw(st.sets(st.integers(0, len(made) - 1), max_size=len(made) - 1))
    for picture in gone:
        bank.remove([picture])
    queries = unit(2, 2, 4, 5, seed=seed + 1)
    left = made[[row for row in range(len(made)) if row not in gone]]
    anew = MemoryBank(left, place_weight=weight)
    assert torch.equal(bank.distance(queries), anew.distance(queries))
    assert bank.nbytes == anew.nbytes
    new = unit(1, 2, 4, 5, seed=seed + 2)
    assert bank.add(new) == [len(made)]  # numbers are not given twice
    anew = MemoryBank(torch.cat([left, new]), place_weight=weight)
    assert torch.equal(bank.distance(queries), anew.distance(queries))


def test_a_bank_is_never_emptied() -> None:
    bank = MemoryBank(unit(2, 1, 3, 4))
    with pytest.raises(ValueError, match="emptied"):
        bank.remove([0, 1])
    assert bank.nbytes == 2 * 3 * 4 * 4


@given(seed=st.integers(0, 99), weight=WEIGHTS, share=st.floats(0.05, 1.2))
@settings(max_examples=50, deadline=None)
def test_a_coreset_keeps_to_its_budget_and_says_what_it_costs(seed: int, weight: float, share: float) -> None:
    features, queries = unit(4, 2, 9, 5, seed=seed), unit(3, 2, 9, 5, seed=seed + 1)
    all_of_it = MemoryBank(features, place_weight=weight)
    budget = int(all_of_it.nbytes * share)
    kept, farthest = coreset(features, budget, weight)
    bank = MemoryBank(features, kept, weight)
    assert bank.nbytes <= max(budget, 2 * 9 * 4)
    assert all(len(set(row.tolist())) == len(row) for row in kept)
    whole, less = all_of_it.distance(queries), bank.distance(queries)
    assert (less >= whole - 1e-6).all()
    # Euclidean distance is √(2d) on vectors of length 1, and it obeys the triangle inequality.
    assert ((2 * less).sqrt() <= (2 * whole).sqrt() + (2 * farthest) ** 0.5 + 1e-3).all()
    if share >= 1:
        assert farthest == 0
        torch.testing.assert_close(less, whole, atol=1e-6, rtol=0)


def test_a_coreset_covers_better_than_as_many_patches_at_random() -> None:
    clusters = unit(1, 1, 12, 16)
    crowd = torch.nn.functional.normalize(clusters[:, :, [0] * 80] + 0.05 * unit(1, 1, 80, 16, seed=1), dim=-1)
    features = torch.cat([crowd, clusters], dim=2)
    kept, farthest = coreset(features, 12 * 16 * 4)
    assert farthest < 0.05
    assert MemoryBank(features, kept).distance(clusters).max() < 0.05
    assert MemoryBank(features, torch.arange(12)[None]).distance(clusters).max() > 0.2


@pytest.mark.gpu
def test_pictures_come_and_go_on_a_gpu_too() -> None:
    made, queries = unit(5, 2, 20, 32, seed=1), unit(4, 2, 20, 32, seed=2)
    bank = MemoryBank(made[:3].cuda())
    bank.add(made[3:].cuda())
    bank.remove([1])
    assert isinstance(bank._indexes[0], faiss.GpuIndex)
    torch.testing.assert_close(bank.distance(queries.cuda()), brute_force(queries, made[[0, 2, 3, 4]]), **EXACT)


@pytest.mark.gpu
def test_banks_may_go_while_others_are_searched_on_a_gpu() -> None:
    made, queries = unit(5, 2, 16, 32, seed=1), unit(4, 2, 16, 32, seed=2)
    bank, stop = MemoryBank(made), threading.Event()

    def come_and_go() -> None:
        while not stop.is_set():
            MemoryBank(made)

    others = [threading.Thread(target=come_and_go) for _ in range(2)]
    for one in others:
        one.start()
    try:
        for _ in range(200):
            torch.testing.assert_close(bank.distance(queries), brute_force(queries, made), **EXACT)
    finally:
        stop.set()
        for one in others:
            one.join()


def test_a_category_with_a_budget(tmp_path: Path) -> None:
    """Its bank is that small in the branch, its calibration of the very scores that queries get, and what is fed back
    is in it whole."""
    budget = 200_000
    profile: Profile = QUICK.model_copy(
        update={
            "pool": QUICK.pool.model_copy(update={"budget": budget}),
            "fusion": "calibrated",
            "place_weight": 2.0,
        }
    )
    store = CategoryStore(tmp_path.as_uri())
    done = onboard("board", [checks(0), checks(1)], profile, store, more_normal=[checks(20)])
    assert any("patches a level" in warning for warning in done.warnings)
    branch = NormalBranch(load_foundation(profile), store)
    branch.loaded.get(done.ref)
    assert budget * 0.9 < branch.loaded.nbytes <= budget
    scorer = TripletScorer(profile, store)
    extra = store.calibration(done.ref).pictures[-1]
    (found,) = scorer.score([checks(20)], [done.ref])
    assert (extra.score, extra.s_n) == (found.score, found.s_n)

    picture = images.resize(checks(33), profile.diffusion.resolution)
    (before,) = scorer.score([picture], [done.ref])
    features = encode(scorer.foundation, [picture])[0].numpy()
    ref = accept_normal(store, scorer.foundation, done.ref, picture, features, before.s_p, before.s_text, "ada")
    (after,) = scorer.score([picture], [ref])
    scale = scales_in(store, store.manifest(ref))[1]
    nothing = scale.of(torch.zeros(features.shape[:2])).amax(-1).mean().item()
    deviation = float(scale.deviation)
    assert after.s_n == pytest.approx(nothing, abs=1e-4 / deviation)
    assert before.s_n > nothing + 1e-2 / deviation
    branch.loaded.get(ref)
    patches = np.prod(features.shape[:2]) * (features.shape[2] + 4) * 4  # where they are, too
    assert NormalBranch(load_foundation(profile), store).loaded.get(ref)[0].nbytes <= budget + patches
