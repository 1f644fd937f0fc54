"""What was compared once is fused both ways."""

from pathlib import Path

import numpy as np

from o2n.evaluation.fusions import AS_THEY_ARE, on_scales
from o2n.onboard import onboard
from o2n.store import CategoryStore
from o2n.triplet import TripletScorer
from o2n.version import scales_in
from tests.helpers import QUICK, checks, stripes


def test_on_another_versions_scales_it_is_what_that_version_says(tmp_path: Path) -> None:
    store, calibrated = CategoryStore(tmp_path.as_uri()), QUICK.model_copy(update={"fusion": "calibrated"})
    references, queries = [checks(0), checks(1)], [checks(7), stripes(7)]
    summed, scaled = (onboard(p.fusion, references, p, store, "board").ref for p in (QUICK, calibrated))
    plain = TripletScorer(QUICK, store).compare(queries, [summed] * 2)
    found = TripletScorer(calibrated, store).compare(queries, [scaled] * 2)
    assert all((scale.mean, scale.deviation) == (0, 1) for scale in scales_in(store, store.manifest(summed)))
    own = scales_in(store, store.manifest(scaled))
    for one, other in zip(plain, found, strict=True):
        for there, back, there_too, same in zip(
            on_scales(one, AS_THEY_ARE, own)[2:],
            on_scales(other, own, AS_THEY_ARE)[2:],
            other[2:],
            one[2:],
            strict=True,
        ):
            assert there.dtype == back.dtype == np.float32
            np.testing.assert_allclose(there, there_too, rtol=1e-4, atol=1e-3)
            np.testing.assert_allclose(back, same, rtol=1e-4, atol=1e-5)
        assert not np.allclose(one.normal, other.normal)
