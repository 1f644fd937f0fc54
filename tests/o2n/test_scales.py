"""The scales of a calibrated profile: what they are made of, and that they change nothing but how branches add up."""

from pathlib import Path

import numpy as np
import pytest
import torch

from o2n.bank import MemoryBank
from o2n.branches import unpack
from o2n.foundation import pick_device
from o2n.onboard import onboard
from o2n.pool import bank_origins
from o2n.profiles import Profile
from o2n.scales import LEAST_SPREAD, UNSCALED
from o2n.store import CategoryStore
from o2n.triplet import TripletScorer
from tests.helpers import QUICK, checks

SUM: Profile = QUICK.model_copy(update={"fusion": "sum"})
CALIBRATED: Profile = QUICK.model_copy(update={"fusion": "calibrated"})
REFERENCES = [checks(0), checks(1), checks(2)]
QUERIES = [checks(7), np.roll(checks(8), 3, axis=0), 255 - checks(9)]


def stored(profile: Profile, folder: Path) -> tuple[CategoryStore, dict[str, torch.Tensor], np.ndarray]:
    """A store with one category, its blobs, and the queries' (score, S_P, S_N, S_text)."""
    store = CategoryStore(folder.as_uri())
    ref = onboard("board", REFERENCES, profile, store).ref
    blobs = {name: unpack(store.get_blob(store.manifest(ref).blobs[name]), name) for name in ("scales", "features")}
    scores = TripletScorer(profile, store).score(QUERIES, [ref] * len(QUERIES))
    return store, blobs, np.array([(s.score, s.s_p, s.s_n, s.s_text) for s in scores])


def test_a_calibrated_branch_is_the_plain_one_in_deviations(tmp_path: Path) -> None:
    _, blobs, plain = stored(SUM, tmp_path / "sum")
    assert torch.equal(blobs["scales"], UNSCALED)
    _, blobs, calibrated = stored(CALIBRATED, tmp_path / "calibrated")
    mean, deviation = blobs["scales"].numpy().T
    np.testing.assert_allclose(calibrated[:, 1:] * deviation + mean, plain[:, 1:], atol=1e-4)
    for table in (plain, calibrated):
        np.testing.assert_allclose(table[:, 0], table[:, 1:] @ [1, QUICK.alpha, QUICK.beta], rtol=1e-5)


def test_the_scale_of_s_n_leaves_a_references_own_pictures_out(tmp_path: Path) -> None:
    _, blobs, _ = stored(CALIBRATED, tmp_path)
    features, origins = blobs["features"], bank_origins(len(REFERENCES), CALIBRATED)
    assert len(features) == len(origins)
    views = len(REFERENCES) * (1 + CALIBRATED.pool.warps)
    scores = []
    for row in range(views):
        others = [other for other, origin in enumerate(origins) if origin != origins[row]]
        bank = MemoryBank(features[others], place_weight=CALIBRATED.place_weight)
        scores.append(bank.distance(features[row : row + 1]).amax(-1).mean().item())
    mean, deviation = blobs["scales"][1].tolist()
    assert mean == pytest.approx(np.mean(scores), rel=1e-4)
    assert deviation == pytest.approx(np.std(scores, ddof=1) + LEAST_SPREAD * np.mean(scores), rel=1e-4)


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
