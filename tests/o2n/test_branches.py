"""The branches with more versions than they may keep, and with models that do not compute any more."""

import copy
import json
from itertools import pairwise
from typing import Any

import pytest
import safetensors.torch
import torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from hypothesis import given
from hypothesis import strategies as st

from o2n.branches import SLOTS, NormalBranch, PersonalBranch, TextBranch, _Slots, _stretches
from o2n.category import Manifest, VersionRef
from o2n.customize import read_adapter
from o2n.errors import FoundationError, IntegrityError
from o2n.features import patch_features
from o2n.foundation import EMBEDDED, load_foundation, load_from
from o2n.images import resize
from o2n.store import CategoryStore
from tests.helpers import QUICK, checks

COUNT = SLOTS + 4


@pytest.fixture(scope="module")
def refs(published: CategoryStore) -> list[VersionRef]:
    """More versions than fit into the UNet at once, each with an adapter of its own."""
    base = published.manifest(published.current("checks"))
    metadata, weights = read_adapter(published.get_blob(base.blobs["adapter"]))
    found = []
    for number in range(COUNT):
        scaled = {f"unet.{key}": tensor * (1 + number / 4) for key, tensor in weights.items()}
        data = safetensors.torch.save(scaled, {LORA_ADAPTER_METADATA_KEY: json.dumps(metadata, sort_keys=True)})
        blobs = base.blobs | {"adapter": published.put_blob(data)}
        found.append(published.publish(base.model_copy(update={"category": f"scaled{number}", "blobs": blobs})))
    return found


def test_more_adapters_than_places_and_than_memory(published: CategoryStore, refs: list[VersionRef]) -> None:
    foundation = load_foundation(QUICK)
    pictures = [resize(checks(200 + number), 64) for number in range(COUNT)]
    plenty = PersonalBranch(foundation, published)
    together = plenty.counterparts(pictures, refs)
    size = plenty.loaded.nbytes // COUNT
    assert size > 100_000
    assert (plenty.loaded.loads, plenty.loaded.evictions) == (COUNT, 0)

    little = PersonalBranch(foundation, published, budget=3 * size)
    assert torch.allclose(little.counterparts(pictures, refs), together, atol=1e-4)
    assert little.loaded.evictions == COUNT - 3
    assert little.loaded.nbytes == 3 * size
    order = list(range(COUNT))[::-1]
    for number in order[:4]:  # one by one, through places that held others a moment ago
        alone = little.counterparts([pictures[number]], [refs[number]])
        assert torch.allclose(alone[0], together[number], atol=1e-4)
    # The adapters do make a difference, or this would hold for any mix-up.
    same = plenty.counterparts([pictures[0]] * 2, [refs[0], refs[-1]])
    assert (same[0] - same[1]).abs().max() > 1e-3


def test_a_place_whose_filling_was_interrupted_holds_nothing(
    published: CategoryStore, refs: list[VersionRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    branch, other = (PersonalBranch(load_from(QUICK, EMBEDDED), published) for _ in range(2))
    picture = resize(checks(1), 64)
    expected = [branch.counterparts([picture], [ref]) for ref in refs[: SLOTS + 1]]
    oldest, new = refs[1], refs[SLOTS + 1]

    def half_filled(slots: Any, place: str, weights: dict[str, torch.Tensor]) -> None:
        next(iter(slots._parameters[place].values())).zero_()
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(_Slots, "_fill", half_filled)
        with pytest.raises(torch.OutOfMemoryError):
            branch.counterparts([picture], [new])
    assert torch.equal(branch.counterparts([picture], [oldest]), expected[1])  # was in that place
    assert torch.equal(branch.counterparts([picture], [new]), other.counterparts([picture], [new]))


def test_banks_and_texts_keep_to_their_memory(published: CategoryStore, refs: list[VersionRef]) -> None:
    foundation = load_foundation(QUICK)
    features = patch_features(foundation.clip, [resize(checks(300), 64)] * COUNT, QUICK.encoder.levels)
    for kind, call in ((NormalBranch, "distances"), (TextBranch, "probabilities")):
        plenty = kind(foundation, published)
        expected = getattr(plenty, call)(features, refs)
        little = kind(foundation, published, budget=2 * plenty.loaded.nbytes // COUNT)
        assert torch.allclose(getattr(little, call)(features, refs), expected, atol=1e-6)
        assert (len(expected), little.loaded.evictions) == (COUNT, COUNT - 2)
        assert little.loaded.nbytes <= little.loaded.budget


def test_an_adapter_of_another_form_is_refused(published: CategoryStore, refs: list[VersionRef]) -> None:
    branch = PersonalBranch(load_foundation(QUICK), published)
    picture = resize(checks(1), 64)
    branch.counterparts([picture], [refs[0]])
    base: Manifest = published.manifest(refs[0])
    metadata, weights = read_adapter(published.get_blob(base.blobs["adapter"]))
    prefixed = {f"unet.{key}": tensor for key, tensor in weights.items()}
    louder = metadata | {"unet.lora_alpha": 64}
    fewer = dict(list(prefixed.items())[2:])

    def counterparts(tensors: dict[str, torch.Tensor], said: dict[str, object]) -> torch.Tensor:
        data = safetensors.torch.save(tensors, {LORA_ADAPTER_METADATA_KEY: json.dumps(said)})
        blobs = base.blobs | {"adapter": published.put_blob(data)}
        ref = published.publish(base.model_copy(update={"category": "misfit", "blobs": blobs}))
        return branch.counterparts([picture], [ref])

    for tensors, said in ((prefixed, louder), (fewer, metadata)):
        with pytest.raises(IntegrityError, match="does not fit"):
            counterparts(tensors, said)
    # What was trained of the text encoder is in the prompts, and takes no place in the UNet.
    assert len(counterparts(prefixed, metadata | {"text_encoder.r": 4})) == 1
    published.delete("misfit")


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


@given(digests=st.lists(st.sampled_from("abcde"), min_size=1, max_size=20), most=st.integers(1, 4))
def test_stretches_follow_each_other_and_are_as_long_as_may_be(digests: list[str], most: int) -> None:
    found = [digests[part] for part in _stretches(digests, most)]
    assert [one for part in found for one in part] == digests
    assert all(1 <= len(set(part)) <= most for part in found)
    for part, following in pairwise(found):
        assert len({*part, following[0]}) > most
