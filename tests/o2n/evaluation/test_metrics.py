"""Metrics against their definitions, computed slowly."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from o2n.evaluation.metrics import SSIM_RADIUS, auprc, aupro, auroc, masked_error, ssim_outside


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=30))
def test_auroc_is_the_chance_of_ranking_right(pairs: list[tuple[int, bool]]) -> None:
    scores, labels = np.array([p[0] for p in pairs], float), np.array([p[1] for p in pairs])
    if labels.all() or not labels.any():
        with pytest.raises(ValueError, match="both kinds"):
            auroc(scores, labels)
        return
    good, bad = scores[~labels], scores[labels]
    expected = np.mean([(b > g) + 0.5 * (b == g) for b in bad for g in good])
    assert auroc(scores, labels) == pytest.approx(expected)
    assert auroc(np.exp(scores), labels) == pytest.approx(expected)


def test_auprc_is_the_mean_precision_at_every_anomalous_one() -> None:
    scores, labels = np.array([0.9, 0.5, 0.1]), np.array([True, False, True])
    assert auprc(scores, labels) == pytest.approx((1 + 2 / 3) / 2)
    for kind in (True, False):
        with pytest.raises(ValueError, match="AUPRC needs both kinds"):
            auprc(scores, np.full(3, kind))


def slow_aupro(maps: np.ndarray, masks: np.ndarray, limit: float) -> float:
    regions = []
    for index, mask in enumerate(masks):
        numbers, count = ndimage.label(mask, structure=np.ones((3, 3)))
        regions += [(index, numbers == number + 1) for number in range(count)]
    points = [(0.0, 0.0)]
    for threshold in np.unique(maps)[::-1]:
        flagged = maps >= threshold
        false = (flagged & ~masks).sum() / (~masks).sum()
        points.append((false, float(np.mean([flagged[i][region].mean() for i, region in regions]))))
    x, y = np.array(points).T
    kept = [(a, b) for a, b in points if a < limit]
    edge = (limit, float(np.interp(limit, x, y)))
    false, overlap = np.array([*kept, edge]).T
    return float(np.trapezoid(overlap, false) / limit)


def regions() -> tuple[np.ndarray, np.ndarray]:
    """Maps in which many pixels are alike, and masks with four regions, one of which meets its parts at a corner."""
    rng = np.random.default_rng(0)
    masks = np.zeros((4, 16, 16), bool)
    masks[0, 2:5, 3:9] = masks[0, 5:7, 9:11] = masks[1, 8:12, 8:10] = masks[1, 1, 1] = masks[2, 0:2, 0:16] = True
    return (rng.integers(0, 40, masks.shape) + 12 * masks).astype(np.float32), masks


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_aupro_is_that_of_anomalib(limit: float) -> None:
    theirs = pytest.importorskip("anomalib.metrics.aupro")._AUPRO(fpr_limit=limit)
    maps, masks = regions()
    theirs.update(torch.from_numpy(maps), torch.from_numpy(masks).float())
    assert aupro(maps, masks, limit) == pytest.approx(float(theirs.compute()), rel=1e-5)


def test_aupro_against_all_thresholds_one_by_one() -> None:
    maps, masks = regions()
    assert aupro(maps, masks) == pytest.approx(slow_aupro(maps, masks, 0.3))
    assert aupro(maps, masks, limit=0.05) == pytest.approx(slow_aupro(maps, masks, 0.05))


def test_aupro_of_a_perfect_map_is_1_and_of_a_wrong_one_0() -> None:
    masks = np.zeros((2, 32, 32), bool)
    masks[:, 10:15, 10:15] = True
    assert aupro(masks.astype(np.float32), masks) == pytest.approx(1)
    assert aupro(1 - masks.astype(np.float32), masks) == pytest.approx(0)
    with pytest.raises(ValueError, match="regions"):
        aupro(np.zeros((1, 4, 4), np.float32), np.zeros((1, 4, 4), bool))


def test_a_small_region_counts_as_much_as_a_large_one() -> None:
    masks = np.zeros((1, 32, 32), bool)
    masks[0, 1:3, 1:3] = masks[0, 10:30, 10:30] = True
    small, large = np.zeros((2, 1, 32, 32), np.float32)
    small[0, 1:3, 1:3] = large[0, 10:30, 10:30] = 1
    assert aupro(small, masks) == pytest.approx(aupro(large, masks))


def test_error_inside_and_likeness_outside_a_mask() -> None:
    rng = np.random.default_rng(1)
    a = rng.uniform(size=(2, 64, 64, 3)).astype(np.float32)
    masks = np.zeros((2, 64, 64), bool)
    masks[:, 20:30, 25:35] = True
    b = a.copy()
    b[:, 20:30, 25:35] = np.abs(b[:, 20:30, 25:35] - 0.25)
    assert ssim_outside(a, b, masks) == pytest.approx([1, 1], abs=1e-5)
    assert (masked_error(a, b, masks) > 0.05).all()
    assert masked_error(a, a, masks) == pytest.approx([0, 0])
    b[0, 0:5, 0:5] = 0
    assert ssim_outside(a, b, masks)[0] < 1 - 1e-3
    far = masks.copy()
    far[:, 30 + SSIM_RADIUS + 1 :] = True
    inside = np.where(far[..., None], 1 - a, a)
    assert ssim_outside(a, inside, far) == pytest.approx([1, 1], abs=1e-5)
    assert (ssim_outside(a, inside, masks) < 0.9).all()
