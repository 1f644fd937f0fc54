"""What any method must beat sees what is plain to see."""

import numpy as np

from o2n.evaluation.baselines import nearest_picture, random_encoder, raw_patches
from o2n.evaluation.metrics import auroc


def test_baselines_see_a_plain_defect() -> None:
    rng = np.random.default_rng(0)
    good = [rng.integers(100, 110, (64, 64, 3), dtype=np.uint8) for _ in range(10)]
    bad = [picture.copy() for picture in good[4:]]
    for picture in bad:
        picture[10:24, 10:24] = 255
    labels = np.arange(12) >= 6
    scores, maps = raw_patches(good[:4], good[4:] + bad)
    assert maps.shape == (12, 15, 15)
    assert auroc(scores, labels) == 1
    assert auroc(nearest_picture(good[:4], good[4:] + bad), labels) == 1
    assert auroc(random_encoder(good[:4], good[4:] + bad), labels) == 1
