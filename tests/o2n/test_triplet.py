"""The scorer: order, batch and company change nothing; what cannot be scored says why."""

from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch

from o2n.bank import MemoryBank
from o2n.category import VersionRef
from o2n.device import pick_device
from o2n.errors import FoundationError, IntegrityError, NotFoundError
from o2n.fusion import Score
from o2n.graphs import without_graphs
from o2n.models import ClipModel, DiffusionModel
from o2n.onboard import onboard
from o2n.profiles import Profile
from o2n.store import CategoryStore
from o2n.triplet import TripletScorer
from tests.helpers import QUICK, checks, stripes


@pytest.fixture(scope="module")
def scorer(published: CategoryStore) -> TripletScorer:
    return TripletScorer(QUICK, published)


def values(score: Score) -> tuple[float, ...]:
    return score.score, score.s_p, score.s_n, score.s_text


def test_order_batch_and_company_change_nothing(scorer: TripletScorer, published: CategoryStore) -> None:
    pictures = [maker(seed) for seed in range(10, 16) for maker in (checks, stripes)]
    refs = [published.current(name) for _ in range(6) for name in ("checks", "stripes")]
    together = scorer.score(pictures, refs)
    backwards = scorer.score(pictures[::-1], refs[::-1])[::-1]
    off = 0.0 if pick_device().type == "cpu" else 1e-5  # a CPU gives the same bits
    for index, (picture, ref) in enumerate(zip(pictures, refs, strict=True)):
        (alone,) = scorer.score([picture], [ref])
        assert values(together[index]) == pytest.approx(values(alone), abs=off, rel=0)
        assert values(together[index]) == pytest.approx(values(backwards[index]), abs=off, rel=0)
        np.testing.assert_allclose(together[index].anomaly_map, alone.anomaly_map, atol=off, rtol=0)
        assert np.abs(together[index].counterpart.astype(int) - alone.counterpart).max() <= bool(off)


def test_categories_seen_at_different_scales_change_nothing_for_each_other(tmp_path: Path) -> None:
    store = CategoryStore(tmp_path.as_uri())
    sides = (96, 160)
    refs = [onboard(f"of-{side}", [stripes(0, side, side), stripes(1, side, side)], QUICK, store).ref for side in sides]
    scorer, pictures = TripletScorer(QUICK, store), [stripes(seed, 200, 170) for seed in range(4)]
    together = scorer.score(pictures, refs * 2)
    off = 0.0 if pick_device().type == "cpu" else 1e-5
    for picture, ref, score in zip(pictures, refs * 2, together, strict=True):
        (alone,) = scorer.score([picture], [ref])
        assert score.ref == ref
        assert values(score) == pytest.approx(values(alone), abs=off, rel=0)
        assert score.anomaly_map.shape == (16, 16)


def test_the_number_of_threads_changes_the_last_digits_at_most(scorer: TripletScorer, published: CategoryStore) -> None:
    """A replica of the service may have other threads than a process of the library. Which sums torch cuts at which
    place is the processor's affair: on some all numbers of threads give the same bits."""
    ref, threads = published.current("stripes"), torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 3, 4):
            torch.set_num_threads(count)
            found.append(values(scorer.score([stripes(30)], [ref])[0]))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=0, abs=1e-6)


def test_a_category_makes_a_difference(scorer: TripletScorer, published: CategoryStore) -> None:
    right, wrong = scorer.score([checks(20)] * 2, [published.current("checks"), published.current("stripes")])
    assert right.s_n < wrong.s_n


def test_a_reference_is_in_its_own_bank(scorer: TripletScorer, published: CategoryStore) -> None:
    (found,) = scorer.score([checks(0)], [published.current("checks")])
    assert found.s_n < 1e-5


def test_all_is_computed_once(scorer: TripletScorer, published: CategoryStore) -> None:
    """Of a query the features, which all branches share, its latent, its steps with each prompt, its counterpart's
    features and its neighbours; of the category's texts nothing any more."""
    ref = published.current("checks")
    scorer.load(ref)
    counted = [(ClipModel, "blocks"), *((DiffusionModel, name) for name in ("encode", "predict", "embed"))]
    with ExitStack() as stack:
        stack.enter_context(without_graphs())
        spies = [
            stack.enter_context(patch.object(kind, name, autospec=True, side_effect=getattr(kind, name)))
            for kind, name in (*counted, (MemoryBank, "distance"))
        ]
        scorer.score([checks(30), checks(31)], [ref] * 2)
    rows = [sum(len(call.args[1]) for call in spy.call_args_list) for spy in spies]
    steps = round(QUICK.t * QUICK.diffusion.steps)
    assert rows == [2 * 2, 2, 2 * QUICK.prompts * steps, 0, 2]


def test_nothing_in_nothing_out(scorer: TripletScorer) -> None:
    assert scorer.score([], []) == []


def test_a_version_that_does_not_exist(scorer: TripletScorer) -> None:
    with pytest.raises(NotFoundError):
        scorer.score([checks(0)], [VersionRef("checks", "0" * 16)])


def test_a_version_of_another_profile_is_refused(published: CategoryStore) -> None:
    other: Profile = QUICK.model_copy(update={"t": 0.5})
    said = "differs by profile's t: use its own profile, or onboard it again"
    with pytest.raises(FoundationError, match=said):
        TripletScorer(other, published).score([checks(0)], [published.current("checks")])


@pytest.mark.parametrize("blob", ["adapter", "features", "text_features", "scales"])
def test_an_altered_blob_is_refused(tmp_path: Path, blob: str) -> None:
    store = CategoryStore(tmp_path.as_uri())
    # Under a name of its own, because adapters that are loaded already are not read again.
    ref = onboard(f"altered-{blob}", [checks(0), checks(1)], QUICK, store).ref
    key = f"blobs/sha256/{store.manifest(ref).blobs[blob].sha256}"
    data = bytearray(store.objects.get(key)[0])
    data[len(data) // 2] ^= 1
    store.objects.put(key, bytes(data))
    with pytest.raises(IntegrityError, match="was altered"):
        TripletScorer(QUICK, store).score([checks(0)], [ref])


def test_a_bucket_gives_the_same_version_and_scores_as_a_directory(published: CategoryStore, bucket: str) -> None:
    in_bucket = CategoryStore(f"s3://{bucket}/parts")
    ref = onboard("anywhere", [checks(0), checks(1)], QUICK, in_bucket).ref
    (found,) = TripletScorer(QUICK, in_bucket).score([checks(9)], [ref])
    assert onboard("anywhere", [checks(0), checks(1)], QUICK, published).ref == ref == in_bucket.current("anywhere")
    assert in_bucket.manifest(ref).blobs == published.manifest(ref).blobs
    (expected,) = TripletScorer(QUICK, published).score([checks(9)], [ref])
    assert values(found) == pytest.approx(values(expected), abs=1e-5)
