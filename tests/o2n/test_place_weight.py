"""How much places count: the same distances as the bank's, and a choice that fits what a category is."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from o2n import place_weight
from o2n.bank import MemoryBank
from o2n.branches import NormalBranch
from o2n.data.defects import Kind
from o2n.data.procedural import spoil_photographs
from o2n.features import over_scales, smoothed
from o2n.foundation import load_foundation
from o2n.images import Picture
from o2n.normals import encode
from o2n.onboard import onboard
from o2n.place_weight import MOST_VIEWS, choose_place_weight, distances_at
from o2n.pool import warped
from o2n.profiles import TINY, Profile
from o2n.store import CategoryStore
from o2n.version import scales_in, unpack
from tests.helpers import QUICK, checks, stripes, unit

OTHERS = TINY.place_weights


@given(
    n=st.integers(1, 4),
    levels=st.integers(1, 3),
    side=st.integers(1, 5),
    weight=st.sampled_from([0.0, 0.5, 3.0, 30.0]),
    seed=st.integers(0, 99),
)
@settings(max_examples=50, deadline=None)
def test_distances_are_those_of_the_bank(n: int, levels: int, side: int, weight: float, seed: int) -> None:
    bank, queries = unit(n, levels, side**2, 7, seed=seed), unit(18, levels, side**2, 7, seed=seed + 1)
    found = distances_at(queries, bank, [weight, 1.0])
    for row, one in enumerate((weight, 1.0)):
        expected = MemoryBank(bank, place_weight=one).distance(queries)
        torch.testing.assert_close(found[row], expected, atol=1e-5, rtol=0)


def chosen(references: list[Picture], own: float = TINY.place_weight, others: tuple[float, ...] = OTHERS) -> float:
    foundation = load_foundation(TINY.model_copy(update={"place_weight": own}))
    views = references + warped(references, TINY.pool.warps)
    origins = [row % len(references) for row in range(len(views))]
    return choose_place_weight(foundation, views, encode(foundation, views), origins, others)


def board(seed: int) -> Picture:
    """A part that always lies in the same place: twelve different components on a plain board, with noise."""
    rng, layout = np.random.default_rng(seed), np.random.default_rng(0)
    picture = np.full((64, 64, 3), 70.0)
    for row in range(3):
        for column in range(4):
            height, width = layout.integers(8, 16), layout.integers(6, 12)
            top, left = 4 + 20 * row, 2 + 15 * column
            picture[top : top + height, left : left + width] = layout.integers(0, 255, 3)
    return np.clip(picture + rng.normal(0, 6, picture.shape), 0, 255).astype(np.uint8)


def cloth(seed: int) -> Picture:
    """A piece of a large pattern of soft blots, every picture another piece."""
    blots = np.random.default_rng(0).normal(size=(256, 256, 3))
    smooth = np.fft.ifft2(np.fft.fft2(blots, axes=(0, 1)) * _low_pass(256)[..., None], axes=(0, 1)).real
    smooth = 128 + 55 * smooth / smooth.std()
    top, left = np.random.default_rng(seed).integers(0, 192, 2)
    return np.clip(smooth[top : top + 64, left : left + 64], 0, 255).astype(np.uint8)


def _low_pass(side: int) -> np.ndarray:
    frequency = np.fft.fftfreq(side)
    return np.exp(-((frequency[:, None] ** 2 + frequency[None] ** 2) / (2 * 0.04**2)))


def test_a_part_in_its_place_wants_more_weight_than_a_piece_of_cloth() -> None:
    assert chosen([board(seed) for seed in range(4)]) > chosen([cloth(seed) for seed in range(4)])


def test_what_is_no_better_does_not_take_the_place_of_the_profiles_own() -> None:
    references = [checks(0, 64), checks(1, 64)]
    assert chosen(references, own=7.0, others=(7.0, 7.001)) == 7.0
    boards = [board(seed) for seed in range(3)]
    assert chosen(boards, own=0.0, others=(30.0,)) == 30.0
    assert chosen(boards, own=30.0, others=(0.0,)) == 30.0


def test_many_references_cost_no_more_views_than_few(monkeypatch: pytest.MonkeyPatch) -> None:
    spoilt: list[int] = []

    def counted(pictures: np.ndarray, seed: int, kinds: dict[str, Kind]) -> tuple[np.ndarray, np.ndarray]:
        spoilt.append(len(pictures))
        return spoil_photographs(pictures, seed, kinds)

    monkeypatch.setattr(place_weight, "spoil_photographs", counted)
    foundation, views = load_foundation(TINY), [board(seed) for seed in range(MOST_VIEWS + 2)]
    some = encode(foundation, views[:2])
    features = some.repeat(len(views) // 2, 1, 1, 1)
    choose_place_weight(foundation, views, features, range(len(views)), (0.0,))
    assert spoilt == [MOST_VIEWS]


def test_a_version_keeps_what_was_chosen_and_is_scored_with_it(tmp_path: Path) -> None:
    profile: Profile = QUICK.model_copy(update={"fusion": "calibrated", "place_weight": 0.0, "place_weights": (30.0,)})
    store = CategoryStore(tmp_path.as_uri())
    references = [board(0), board(1)]
    manifest = store.manifest(onboard("board", references, profile, store).ref)
    assert manifest.place_weight in (0.0, 30.0)
    features = unpack(store.get_blob(manifest.blobs["features"]), "features")
    foundation = load_foundation(profile)
    queries = encode(foundation, [board(9), stripes(9, 64, 64)])
    found = NormalBranch(foundation, store).distances(queries, [manifest.ref] * 2)
    scale, levels = scales_in(store, manifest)[1], len(profile.comparing.levels)
    at = {}
    for weight in (0.0, 30.0):
        local = over_scales(MemoryBank(features, place_weight=weight).distance(queries), levels)
        at[weight] = scale.of(smoothed(local, profile.smoothing))
    torch.testing.assert_close(found, at[manifest.place_weight])
    assert not torch.allclose(at[0.0], at[30.0])


@pytest.mark.parametrize("update", [{"place_weights": ()}, {"place_weights": (), "place_weight": 1.0}])
def test_where_a_profile_has_one_weight_that_one_counts(update: dict[str, object], tmp_path: Path) -> None:
    profile: Profile = QUICK.model_copy(update=update)
    store = CategoryStore(tmp_path.as_uri())
    manifest = store.manifest(onboard("board", [board(0), board(1)], profile, store).ref)
    assert manifest.place_weight == profile.place_weight
    assert "place" not in manifest.model_dump_json(exclude={"profile", "seconds"})


def test_versions_of_other_choices_are_scored_alike() -> None:
    assert TINY.differs_by(TINY.model_copy(update={"place_weights": (1.0,)})) == []
    assert TINY.differs_by(TINY.model_copy(update={"place_weight": 1.0})) == ["place_weight"]
