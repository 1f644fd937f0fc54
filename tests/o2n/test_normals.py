"""Normal pictures calibrate with the very scores that queries get, and generated ones not at all."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from o2n import images
from o2n.bank import MemoryBank, coreset, coreset_without
from o2n.branches import PersonalBranch
from o2n.device import pick_device
from o2n.features import counterpart_features, features_to_compare, personal_distance, smoothed
from o2n.foundation import load_foundation
from o2n.fusion import fuse
from o2n.normals import image_scores, leave_one_out
from o2n.onboard import onboard
from o2n.pool import bank_origins
from o2n.profiles import Profile
from o2n.store import CategoryStore
from o2n.triplet import TripletScorer
from o2n.version import unpack, unpack_calibration_scales
from tests.helpers import QUICK, checks, stripes

CALIBRATED: Profile = QUICK.model_copy(update={"fusion": "calibrated"})
REFERENCES = [checks(0), checks(1), checks(2)]
EXTRAS = [checks(20), checks(21, 90, 70), stripes(0)]


@pytest.mark.parametrize("profile", [QUICK, CALIBRATED], ids=["sum", "calibrated"])
def test_a_calibration_is_of_the_scores_that_queries_get(profile: Profile, tmp_path: Path) -> None:
    store = CategoryStore(tmp_path.as_uri())
    copies = [EXTRAS[0], REFERENCES[1]]
    ref = onboard("board", [*REFERENCES, REFERENCES[0]], profile, store, more_normal=EXTRAS + copies).ref
    manifest = store.manifest(ref)
    blobs = {
        name: unpack(store.get_blob(manifest.blobs[name]), name)
        for name in ("features", "scales", "normals", "distances")
    }
    found = store.calibration(ref)
    side = profile.diffusion.resolution
    assert [(picture.picture, picture.origin) for picture in found.pictures] == [
        (images.digest(images.resize(picture, side)), origin)
        for origin, pictures in (("reference", REFERENCES), ("extra", EXTRAS))
        for picture in pictures
    ]
    assert len(blobs["normals"]) == len(blobs["distances"]) == len(found.scores) == 6
    assert len(blobs["features"]) == profile.pool.pictures + 3 * profile.pool.warps

    scores = TripletScorer(profile, store).score(REFERENCES + EXTRAS, [ref] * 6)
    deviation = blobs["scales"][:, 1].tolist()
    for index, (picture, score) in enumerate(zip(found.pictures, scores, strict=True)):
        # On a CPU the same bits: else a picture that comes again could score a digit above its own threshold.
        tolerance = 0.0 if pick_device().type == "cpu" else 1e-5 / min(deviation)
        assert picture.s_text == pytest.approx(score.s_text, abs=tolerance, rel=0)
        if index >= 3:
            assert picture.s_p == pytest.approx(score.s_p, abs=tolerance, rel=0)
            assert picture.s_n == pytest.approx(score.s_n, abs=tolerance, rel=0)
            assert picture.score == pytest.approx(score.score, abs=4 * tolerance, rel=0)
        assert picture.score == fuse(picture.s_p, picture.s_n, picture.s_text, profile.alpha, profile.beta)

    foundation, normals = load_foundation(profile), [images.resize(one, side) for one in REFERENCES + EXTRAS]
    redrawn = counterpart_features(foundation, PersonalBranch(foundation, store).counterparts(normals, [ref] * 6))
    s_p = personal_distance(features_to_compare(foundation, normals), redrawn)
    origins, s_n = bank_origins(3, profile), blobs["distances"]
    for row in range(3):
        others = [other for other, origin in enumerate(origins) if origin != row]
        bank = MemoryBank(blobs["features"][others], place_weight=manifest.place_weight)
        distance = bank.distance(blobs["features"][row : row + 1])[0]
        torch.testing.assert_close(distance, s_n[row], atol=1e-5, rtol=0)
    of_pictures = unpack_calibration_scales(store.get_blob(manifest.blobs["scales"]), "scales", count=6)
    even = [smoothed(local, profile.smoothing) for local in (s_p, s_n)]
    expected = [image_scores(scale.of(local)) for scale, local in zip(of_pictures, even, strict=False)]
    for row, picture in enumerate(found.pictures):
        assert picture.s_p == pytest.approx(expected[0][row].item(), abs=1e-4 / deviation[0])
        assert picture.s_n == pytest.approx(expected[1][row].item(), abs=1e-4 / deviation[1])


def test_more_normal_pictures_change_nothing_but_the_calibration(tmp_path: Path) -> None:
    store = CategoryStore(tmp_path.as_uri())
    alone = store.manifest(onboard("board", REFERENCES, QUICK, store).ref)
    done = onboard("board", REFERENCES, QUICK, store, more_normal=EXTRAS)
    more = store.manifest(done.ref)
    assert {name for name in more.blobs if more.blobs[name] != alone.blobs[name]} == {
        "calibration",
        "normals",
        "distances",
    }
    assert set(done.resumed) == {"prior", "adapter", "pool", "features", "place", "text_features", "scales"}


def test_leaving_one_out_leaves_out_all_that_was_made_of_it() -> None:
    rng = np.random.default_rng(0)
    features = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(5, 2, 4, 8)).astype(np.float32)), dim=-1)
    origins = [0, 1, 0, None, 1]
    found = leave_one_out(features, origins, 3)
    for row, others in ((0, [1, 3, 4]), (1, [0, 2, 3]), (2, [1, 3, 4])):
        similarity = torch.einsum("lgd,nlhd->lgnh", features[row], features[others]).amax(dim=(-2, -1))
        torch.testing.assert_close(found[row], 1 - similarity, atol=1e-6, rtol=0)


@pytest.mark.parametrize("place_weight", [0.0, 3.0])
def test_with_a_budget_a_reference_that_is_left_out_is_as_far_as_a_new_picture(place_weight: float) -> None:
    """Its patches stood for those of the others in the coreset: without them these are there again."""
    rng = torch.Generator().manual_seed(0)
    part = torch.randn(1, 2, 16, 32, generator=rng)
    pictures = torch.nn.functional.normalize(part + 0.1 * torch.randn(16, 2, 16, 32, generator=rng), dim=-1)
    known, new = pictures[:4], pictures[4:]
    kept, _ = coreset(known, MemoryBank(known, place_weight=place_weight).nbytes // 2, place_weight)
    found = image_scores(leave_one_out(known, range(4), 4, kept, place_weight))
    expected = image_scores(MemoryBank(known, kept, place_weight).distance(new))
    assert found.mean() == pytest.approx(expected.mean().item(), rel=0.2)


@given(seed=st.integers(0, 99), place_weight=st.sampled_from([0.0, 3.0]), budget=st.integers(1, 40))
@settings(max_examples=30, deadline=None)
def test_what_is_kept_without_some_pictures_is_of_the_others_and_as_much(
    seed: int, place_weight: float, budget: int
) -> None:
    """Also where all that was kept is theirs."""
    features = torch.nn.functional.normalize(
        torch.randn(4, 2, 9, 5, generator=torch.Generator().manual_seed(seed)), dim=-1
    )
    width = 9 if place_weight else 5
    kept, _ = coreset(features, budget * 2 * width * 4, place_weight)
    for gone in ([0], [1, 3], kept[0].div(9, rounding_mode="floor").unique().tolist()[:3]):
        found = coreset_without(features, kept, gone, place_weight)
        assert found.shape == (2, min(kept.shape[1], 9 * (4 - len(gone))))
        for before, after in zip(kept.tolist(), found.tolist(), strict=True):
            assert not any(patch // 9 in gone for patch in after)
            assert len(set(after)) == len(after)
            assert {patch for patch in before if patch // 9 not in gone} <= set(after)
    assert leave_one_out(features, [0, 1, 1, 0], 2, kept, place_weight).isfinite().all()
