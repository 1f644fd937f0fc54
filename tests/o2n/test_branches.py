"""The branches with more versions than they may keep, and with models that do not compute any more."""

import copy

import pytest
import torch

from o2n.branches import NormalBranch, PersonalBranch, TextBranch
from o2n.category import VersionRef
from o2n.errors import FoundationError
from o2n.features import patch_features
from o2n.foundation import load_foundation
from o2n.images import resize
from o2n.store import CategoryStore
from tests.helpers import QUICK, checks


def test_more_adapters_than_places_and_than_memory(published: CategoryStore, refs: list[VersionRef]) -> None:
    foundation = load_foundation(QUICK)
    pictures = [resize(checks(200 + number), 64) for number in range(len(refs))]
    plenty = PersonalBranch(foundation, published)
    together = plenty.counterparts(pictures, refs)
    size = plenty.loaded.nbytes // len(refs)
    assert size > 100_000
    assert (plenty.loaded.loads, plenty.loaded.evictions) == (len(refs), 0)

    little = PersonalBranch(foundation, published, budget=3 * size)
    assert torch.allclose(little.counterparts(pictures, refs), together, atol=1e-4)
    assert little.loaded.evictions == len(refs) - 3
    assert little.loaded.nbytes == 3 * size
    order = list(range(len(refs)))[::-1]
    for number in order[:4]:  # one by one, through places that held others a moment ago
        alone = little.counterparts([pictures[number]], [refs[number]])
        assert torch.allclose(alone[0], together[number], atol=1e-4)
    # The adapters do make a difference, or this would hold for any mix-up.
    same = plenty.counterparts([pictures[0]] * 2, [refs[0], refs[-1]])
    assert (same[0] - same[1]).abs().max() > 1e-3


def test_banks_and_texts_keep_to_their_memory(published: CategoryStore, refs: list[VersionRef]) -> None:
    foundation = load_foundation(QUICK)
    features = patch_features(foundation.clip, [resize(checks(300), 64)] * len(refs), QUICK.encoder.levels)
    for kind, call in ((NormalBranch, "distances"), (TextBranch, "probabilities")):
        plenty = kind(foundation, published)
        expected = getattr(plenty, call)(features, refs)
        little = kind(foundation, published, budget=2 * plenty.loaded.nbytes // len(refs))
        assert torch.allclose(getattr(little, call)(features, refs), expected, atol=1e-6)
        assert (len(expected), little.loaded.evictions) == (len(refs), len(refs) - 2)
        assert little.loaded.nbytes <= little.loaded.budget


def test_a_model_that_computes_no_numbers_is_found_out(published: CategoryStore) -> None:
    foundation = copy.deepcopy(load_foundation(QUICK))
    branches = [kind(foundation, published) for kind in (PersonalBranch, NormalBranch, TextBranch)]
    for branch in branches:
        branch.check()
    for model in (foundation.diffusion.unet, foundation.clip.maps):
        next(model.parameters()).fill_(torch.nan)
    for branch in (branches[0], branches[2]):
        with pytest.raises(FoundationError, match="no numbers"):
            branch.check()
