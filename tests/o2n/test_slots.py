"""Places for adapters in one UNet: what was interrupted, what does not fit, which batches fit."""

import json
from itertools import pairwise
from typing import Any

import pytest
import safetensors.torch
import torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from hypothesis import given
from hypothesis import strategies as st

from o2n.branches import PersonalBranch
from o2n.category import Manifest, VersionRef
from o2n.customize import read_adapter
from o2n.errors import IntegrityError
from o2n.foundation import EMBEDDED, load_foundation, load_from
from o2n.images import resize
from o2n.slots import SLOTS, Slots, stretches
from o2n.store import CategoryStore
from tests.helpers import QUICK, checks


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
        patch.setattr(Slots, "_fill", half_filled)
        with pytest.raises(torch.OutOfMemoryError):
            branch.counterparts([picture], [new])
    assert torch.equal(branch.counterparts([picture], [oldest]), expected[1])  # was in that place
    assert torch.equal(branch.counterparts([picture], [new]), other.counterparts([picture], [new]))


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


@given(digests=st.lists(st.sampled_from("abcde"), min_size=1, max_size=20), most=st.integers(1, 4))
def teststretches_follow_each_other_and_are_as_long_as_may_be(digests: list[str], most: int) -> None:
    found = [digests[part] for part in stretches(digests, most)]
    assert [one for part in found for one in part] == digests
    assert all(1 <= len(set(part)) <= most for part in found)
    for part, following in pairwise(found):
        assert len({*part, following[0]}) > most
