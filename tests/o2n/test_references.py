"""The nearest normal picture is a real one, and the one that shows the query's part best."""

import numpy as np
import pytest
import torch

from o2n.errors import FoundationError
from o2n.features import features_to_compare
from o2n.foundation import load_foundation
from o2n.images import Picture, resize
from o2n.references import References
from o2n.store import CategoryStore
from o2n.version import unpack
from tests.helpers import QUICK, checks, stripes

SIDE = QUICK.diffusion.resolution


def features_of(picture: Picture) -> torch.Tensor:
    return features_to_compare(load_foundation(QUICK), [resize(picture, SIDE)])[0]


@pytest.fixture(scope="module")
def references(published: CategoryStore) -> References:
    return References(load_foundation(QUICK), published)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_reference_finds_itself_whole_moved_or_damaged(
    references: References, published: CategoryStore, seed: int
) -> None:
    ref = published.current("checks")
    own = resize(checks(seed), SIDE)
    damaged = own.copy()
    damaged[8:24, 8:24] = 0
    for query in (own, damaged, np.roll(own, 3, axis=1)):
        np.testing.assert_array_equal(references.nearest(features_of(query), ref), own)


def test_it_is_of_the_querys_own_category_and_never_a_generated_one(
    references: References, published: CategoryStore
) -> None:
    ref = published.current("stripes")
    stored = unpack(published.get_blob(published.manifest(ref).blobs["references"]), "references").numpy()
    for query in (checks(5), stripes(5), stripes(6)):
        found = references.nearest(features_of(query), ref)
        assert any(np.array_equal(found, picture) for picture in stored)


def test_a_version_of_other_models_is_refused(published: CategoryStore) -> None:
    other = QUICK.model_copy(update={"t": 0.5})
    with pytest.raises(FoundationError, match="checks"):
        References(load_foundation(other), published).nearest(features_of(checks(0)), published.current("checks"))
