"""Local maps -> scores and maps, against the equations written out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from o2n.category import VersionRef
from o2n.fusion import fuse, fuse_maps, image_score, upsample
from o2n.profiles import BRANCHES, PAPER, TINY

REF = VersionRef("bolts", "0" * 16)


def local(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((3, 16), dtype=np.float32)


def test_the_image_score_is_the_mean_over_levels_of_the_maximum_over_the_grid() -> None:
    values = local(0)
    assert image_score(values) == pytest.approx(sum(max(level) for level in values.tolist()) / 3)


def test_scores_and_maps_fuse_the_same_way() -> None:
    counterpart = np.zeros((64, 64, 3), np.uint8)
    score = fuse_maps(REF, counterpart, local(1), local(2), local(3), PAPER)
    assert score.score == pytest.approx(score.s_p + PAPER.alpha * score.s_n + PAPER.beta * score.s_text)
    expected = local(1).mean(0) + PAPER.alpha * local(2).mean(0) + PAPER.beta * local(3).mean(0)
    np.testing.assert_allclose(score.anomaly_map.ravel(), expected, rtol=1e-6)
    assert score.anomaly_map.shape == (4, 4)


def test_a_calibrated_map_says_what_stands_out_of_the_picture() -> None:
    counterpart, maps = np.zeros((64, 64, 3), np.uint8), (local(1), local(2), local(3))
    profile = PAPER.model_copy(update={"fusion": "calibrated"})
    plain, calibrated = (fuse_maps(REF, counterpart, *maps, one) for one in (PAPER, profile))
    everywhere = fuse_maps(REF, counterpart, *(one + 7 for one in maps), profile)
    assert calibrated.score == plain.score
    np.testing.assert_allclose(calibrated.anomaly_map, plain.anomaly_map - plain.anomaly_map.mean(), atol=1e-6)
    np.testing.assert_allclose(everywhere.anomaly_map, calibrated.anomaly_map, atol=1e-5)
    assert everywhere.score > calibrated.score


def test_weights_of_nought_leave_s_p() -> None:
    assert fuse(0.7, 0.5, 0.3, alpha=0, beta=0) == 0.7


@given(kept=st.sets(st.sampled_from(BRANCHES), min_size=1), seed=st.integers(0, 99))
def test_a_branch_that_does_not_count_is_computed_and_told(kept: set[str], seed: int) -> None:
    profile = PAPER.model_copy(update={"branches": tuple(kept)})
    maps = [local(seed + row) for row in range(3)]
    score = fuse_maps(REF, np.zeros((4, 4, 3), np.uint8), *maps, profile)
    values = np.array([score.s_p, score.s_n, score.s_text])
    assert values == pytest.approx([image_score(one) for one in maps])
    weights = np.array([1, PAPER.alpha, PAPER.beta]) * [name in kept for name in BRANCHES]
    assert score.score == pytest.approx(values @ weights, rel=1e-6)
    np.testing.assert_allclose(
        score.anomaly_map.ravel(), np.tensordot(weights, [one.mean(0) for one in maps], 1), rtol=1e-5
    )


def test_maps_of_two_grids_are_fused_on_that_of_s_p() -> None:
    coarse = np.repeat(np.repeat(np.eye(2, dtype=np.float32), 2, 0), 2, 1).reshape(1, 16)
    profile = TINY.model_copy(update={"branches": ("S_text",), "beta": 1.0})
    zeros = np.zeros((2, 16), np.float32)
    score = fuse_maps(
        REF, np.zeros((4, 4, 3), np.uint8), zeros, zeros, np.eye(2, dtype=np.float32).reshape(1, 4), profile
    )
    assert score.anomaly_map.shape == (4, 4)
    assert np.corrcoef(score.anomaly_map.ravel(), coarse.ravel())[0, 1] > 0.8


def test_upsampling_keeps_range_and_place() -> None:
    small = np.zeros((4, 4), np.float32)
    small[1, 2] = 1
    large = upsample(small, 40, 80)
    assert large.shape == (40, 80)
    assert large.min() >= 0
    assert large.max() <= 1
    assert np.unravel_index(large.argmax(), large.shape) == pytest.approx((14.5, 49.5), abs=1.5)
