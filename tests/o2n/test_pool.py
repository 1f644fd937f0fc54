"""What the anomaly-free pool is made of."""

import numpy as np

from o2n.foundation import Foundation
from o2n.mixture import BASE
from o2n.pool import bank_origins, draw_pool
from tests.helpers import QUICK, checks, stripes

PROFILE = QUICK.model_copy(update={"pool": QUICK.pool.model_copy(update={"pictures": 6, "warps": 0})})


def test_half_is_drawn_from_nothing_and_half_are_references_redrawn(foundation: Foundation) -> None:
    boards, cloths = [checks(0), checks(1)], [stripes(seed, 64, 64) for seed in (0, 1)]
    of_boards, of_cloths = (
        np.stack(draw_pool(foundation.diffusion, BASE, references, "board", PROFILE)) for references in (boards, cloths)
    )
    assert bank_origins(2, PROFILE) == [0, 1, None, None, 0, 1]
    assert np.array_equal(of_boards[:2], of_cloths[:2])
    assert not np.array_equal(of_boards[0], of_boards[1])

    def apart(one: np.ndarray, other: np.ndarray) -> float:
        return float(np.abs(one.astype(float) - other).mean())

    for pool, own, others in ((of_boards, boards, cloths), (of_cloths, cloths, boards)):
        assert len(pool) == 4
        for redrawn, reference, other in zip(pool[2:], own, others, strict=True):
            assert 0 < apart(redrawn, reference) < apart(redrawn, other)
