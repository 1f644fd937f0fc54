"""Local maps -> scores and maps, against the equations written out."""

import numpy as np
import pytest

from o2n.category import VersionRef
from o2n.fusion import fuse, fuse_maps, image_score, upsample
from o2n.profiles import TINY

REF = VersionRef("bolts", "0" * 16)


def local(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((3, 16), dtype=np.float32)


def test_the_image_score_is_the_mean_over_levels_of_the_maximum_over_the_grid() -> None:
    values = local(0)
    assert image_score(values) == pytest.approx(sum(max(level) for level in values.tolist()) / 3)


def test_scores_and_maps_fuse_the_same_way() -> None:
    counterpart = np.zeros((64, 64, 3), np.uint8)
    score = fuse_maps(REF, counterpart, local(1), local(2), local(3), TINY)
    assert score.score == pytest.approx(score.s_p + TINY.alpha * score.s_n + TINY.beta * score.s_text)
    expected = local(1).mean(0) + TINY.alpha * local(2).mean(0) + TINY.beta * local(3).mean(0)
    np.testing.assert_allclose(score.anomaly_map.ravel(), expected, rtol=1e-6)
    assert score.anomaly_map.shape == (4, 4)


def test_weights_of_nought_leave_s_p() -> None:
    assert fuse(0.7, 0.5, 0.3, alpha=0, beta=0) == 0.7


def test_upsampling_keeps_range_and_place() -> None:
    small = np.zeros((4, 4), np.float32)
    small[1, 2] = 1
    large = upsample(small, 40, 80)
    assert large.shape == (40, 80)
    assert large.min() >= 0
    assert large.max() <= 1
    assert np.unravel_index(large.argmax(), large.shape) == pytest.approx((14.5, 49.5), abs=1.5)
