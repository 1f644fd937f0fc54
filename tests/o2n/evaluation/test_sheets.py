"""Pictures of pictures."""

import io

import numpy as np
from PIL import Image

from o2n.evaluation.sheets import GAP, SIDE, grid


def test_a_grid_has_every_picture_in_its_place() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 255, (2, SIDE, SIDE, 3), dtype=np.uint8)
    sheet = np.asarray(Image.open(io.BytesIO(grid(["a", "b"], [[first, None], [None, second]]))))
    assert sheet.shape[1] == 2 * (SIDE + GAP) + GAP
    assert (sheet[-2 * SIDE - 2 * GAP : -SIDE - 2 * GAP, GAP : GAP + SIDE] == first).all()
    assert (sheet[-SIDE - GAP : -GAP, -SIDE - GAP : -GAP] == second).all()
    assert (sheet[-SIDE - GAP : -GAP, GAP : GAP + SIDE] == 255).all()
