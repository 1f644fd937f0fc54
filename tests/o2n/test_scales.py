"""The scales of a calibrated profile: what they are made of, and that they change nothing but how branches add up."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from o2n.bank import MemoryBank
from o2n.branches import NormalBranch, PersonalBranch, TextBranch
from o2n.device import pick_device
from o2n.features import counterpart_features, features_to_compare, smoothed
from o2n.foundation import load_foundation
from o2n.images import Picture
from o2n.normals import image_scores
from o2n.onboard import onboard
from o2n.pool import bank_origins
from o2n.profiles import Profile
from o2n.scales import LEAST_SPREAD, UNSCALED, usual_at
from o2n.store import CategoryStore
from o2n.triplet import TripletScorer
from o2n.version import pack, unpack, unpack_calibration_scales, unpack_scales
from tests.helpers import QUICK, checks

SUM: Profile = QUICK.model_copy(update={"fusion": "sum"})
CALIBRATED: Profile = QUICK.model_copy(update={"fusion": "calibrated"})


def part(seed: int) -> Picture:
    """A good part that always lies in the same place: a disc on a plain ground, with noise."""
    y, x = np.mgrid[:64, :64] - 32
    disc = np.where(x**2 + y**2 < 20**2, 190.0, 60.0)[..., None]
    return np.clip(disc + np.random.default_rng(seed).normal(0, 6, (64, 64, 3)), 0, 255).astype(np.uint8)


REFERENCES = [part(0), part(1), part(2)]
QUERIES = [checks(7), np.roll(checks(8), 3, axis=0), 255 - checks(9)]


def stored(profile: Profile, folder: Path) -> tuple[CategoryStore, dict[str, Tensor], np.ndarray]:
    """A store with one category, its blobs, and the queries' (score, S_P, S_N, S_text)."""
    store = CategoryStore(folder.as_uri())
    ref = onboard("board", REFERENCES, profile, store).ref
    blobs = {name: unpack(store.get_blob(store.manifest(ref).blobs[name]), name) for name in ("scales", "features")}
    scores = TripletScorer(profile, store).score(QUERIES, [ref] * len(QUERIES))
    return store, blobs, np.array([(s.score, s.s_p, s.s_n, s.s_text) for s in scores])


def local_values(profile: Profile, store: CategoryStore) -> tuple[Tensor, Tensor, Tensor]:
    """What the branches say of every patch of the queries, each float32 (3, L, G)."""
    foundation, refs = load_foundation(profile), [store.current("board")] * len(QUERIES)
    personal = PersonalBranch(foundation, store)
    features = features_to_compare(foundation, QUERIES)
    redrawn = counterpart_features(foundation, personal.counterparts(QUERIES, refs))
    return (
        personal.distances(features, redrawn, refs),
        NormalBranch(foundation, store).distances(features, refs),
        TextBranch(foundation, store).probabilities(features, refs),
    )


def test_a_calibrated_branch_is_the_plain_one_in_deviations(tmp_path: Path) -> None:
    plain, blobs, sums = stored(SUM, tmp_path / "sum")
    assert torch.equal(blobs["scales"], UNSCALED)
    calibrated, _, scores = stored(CALIBRATED, tmp_path / "calibrated")
    blob = calibrated.manifest(calibrated.current("board")).blobs["scales"]
    scales = unpack_scales(calibrated.get_blob(blob), "scales")
    assert [scale.mean.ndim for scale in scales] == [2, 2, 0]
    assert all(scale.mean.std() > 0.05 * scale.deviation for scale in scales[:2])  # or no place is told from another
    for scale, own, in_deviations in zip(
        scales, local_values(SUM, plain), local_values(CALIBRATED, calibrated), strict=True
    ):
        torch.testing.assert_close(in_deviations * scale.deviation + scale.mean, own, atol=1e-4, rtol=0)
    for table in (sums, scores):
        np.testing.assert_allclose(table[:, 0], table[:, 1:] @ [1, QUICK.alpha, QUICK.beta], rtol=1e-5)


def test_scales_of_before_places_were_told_apart_are_read() -> None:
    rows = torch.tensor([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]])
    scales = unpack_scales(pack(rows), "scales")
    local = torch.rand(2, 3, 16)
    for (mean, deviation), scale in zip(rows, scales, strict=True):
        assert torch.equal(scale.of(local), (local - mean) / deviation)
    usual = torch.rand(2, 3, 16)
    for data in (pack(rows), pack(rows, usual=usual)):
        of_pictures = unpack_calibration_scales(data, "scales", count=2)
        for scale, same in zip(unpack_scales(data, "scales"), of_pictures, strict=True):
            assert torch.equal(scale.of(local), same.of(local))


def test_the_scale_of_s_n_leaves_a_references_own_pictures_out(tmp_path: Path) -> None:
    store, blobs, _ = stored(CALIBRATED, tmp_path)
    features, origins = blobs["features"], bank_origins(len(REFERENCES), CALIBRATED)
    assert len(features) == len(origins)
    views = len(REFERENCES) * (1 + CALIBRATED.pool.warps)
    found = []
    for row in range(views):
        others = [other for other, origin in enumerate(origins) if origin != origins[row]]
        bank = MemoryBank(features[others], place_weight=store.manifest(store.current("board")).place_weight)
        found.append(bank.distance(features[row : row + 1])[0])
    local, (mean, deviation) = smoothed(torch.stack(found), CALIBRATED.smoothing), blobs["scales"][1].tolist()
    usual = usual_at(local, len(REFERENCES))
    scores = (local - usual).amax(-1).mean(-1).numpy()
    assert mean == pytest.approx(np.mean(scores), rel=1e-4)
    whole = local.amax(-1).mean().item()
    assert deviation == pytest.approx(np.std(scores, ddof=1) + LEAST_SPREAD * whole, rel=1e-4)
    data = store.get_blob(store.manifest(store.current("board")).blobs["scales"])
    close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-5)
    close(unpack_scales(data, "scales")[1].mean, mean + usual)
    of_pictures = unpack_calibration_scales(data, "scales", count=5)[1].mean
    made_of = torch.tensor(origins[:views])
    for reference in range(3):
        close(of_pictures[reference], mean + usual_at(local[made_of != reference], 2))
        assert (of_pictures[reference] - mean - usual).abs().max() > 1e-3 * usual.abs().max()
    for extra in (3, 4):
        assert torch.equal(of_pictures[extra], unpack_scales(data, "scales")[1].mean)


@given(seed=st.integers(0, 999), shift=st.floats(-3, 3, width=32))
def test_what_a_branch_says_everywhere_is_not_of_a_place(seed: int, shift: float) -> None:
    local = torch.rand(6, 2, 25, generator=torch.Generator().manual_seed(seed))
    usual = usual_at(local, 3)
    torch.testing.assert_close(usual.mean(dim=-1), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(usual_at(local + shift, 3), usual, atol=1e-4, rtol=0)
    order = torch.randperm(25, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(usual_at(local[..., order], 3), usual[..., order], atol=1e-6, rtol=0)


@given(st.integers(0, 999))
def test_what_every_good_picture_has_at_a_place_is_usual_there_and_chance_is_not(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    edge, noise = torch.rand(1, 2, 256, generator=rng), torch.randn(4, 2, 256, generator=rng)
    torch.testing.assert_close(
        usual_at(edge + 0.01 * noise, 4), edge[0] - edge[0].mean(-1, keepdim=True), atol=0.05, rtol=0
    )
    assert usual_at(noise, 4).square().mean() < 0.5 * noise.mean(0).square().mean()
    assert usual_at(torch.full((4, 2, 256), 0.3), 4).abs().max() < 1e-6


@pytest.mark.parametrize("references", [2, 4])
def test_what_is_usual_without_a_reference_makes_it_as_odd_as_any_other_picture(references: int) -> None:
    """Else the threshold that they make is too low, and of the next pictures more lie above it than is promised."""
    rng = torch.Generator().manual_seed(0)
    counted_in, left_out, draws = 0, 0, 2000
    for _ in range(draws):
        edge = torch.rand(1, 2, 64, generator=rng)
        *known, new = edge + 0.2 * torch.randn(references + 1, 2, 64, generator=rng)
        local, rest = torch.stack(known), [torch.stack(known[:i] + known[i + 1 :]) for i in range(references)]
        usual = usual_at(local, references)
        score = image_scores(new - usual)
        without = torch.stack([usual_at(others, references - 1) for others in rest])
        counted_in += bool(score > image_scores(local - usual).max())
        left_out += bool(score > image_scores(local - without).max())
    promised, chance = 1 / (references + 1), 3 * (0.25 / draws) ** 0.5
    assert left_out / draws < promised + chance
    assert counted_in / draws > promised + chance


@pytest.mark.parametrize("change", [{}, {"t": 0.0}])
def test_flat_pictures_have_finite_scores(tmp_path: Path, change: dict[str, float]) -> None:
    """Nothing differs between them, and with t = 0 a counterpart is the query itself: no spread to divide by."""
    profile, store = CALIBRATED.model_copy(update=change), CategoryStore(tmp_path.as_uri())
    flat = [np.full((64, 64, 3), value, np.uint8) for value in (0, 1, 255)]
    ref = onboard("flat", flat[:2], profile, store).ref
    for score in TripletScorer(profile, store).score(flat, [ref] * 3):
        assert np.isfinite([score.score, score.s_p, score.s_n, score.s_text]).all()
        assert np.isfinite(score.anomaly_map).all()


def test_a_batch_changes_a_calibrated_branch_by_no_more_than_a_plain_one(tmp_path: Path) -> None:
    store, blobs, together = stored(CALIBRATED, tmp_path)
    scorer, ref = TripletScorer(CALIBRATED, store), store.current("board")
    alone = np.array([(s.s_p, s.s_n, s.s_text) for query in QUERIES for s in scorer.score([query], [ref])])
    off = 0.0 if pick_device().type == "cpu" else 1e-5
    assert (np.abs(together[:, 1:] - alone) * blobs["scales"][:, 1].numpy() <= off).all()


def test_the_bank_begins_with_the_references_and_their_views() -> None:
    origins = bank_origins(3, CALIBRATED)
    views = 3 * (1 + CALIBRATED.pool.warps)
    assert origins[:views] == [0, 1, 2] * (1 + CALIBRATED.pool.warps)
    assert len(origins) == views + CALIBRATED.pool.pictures - 3
    assert set(origins[views:]) <= {None, 0, 1, 2}
