"""What prompts mean, and how abnormal patches read beside them, against eq. (6) written out."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from o2n.features import patch_features
from o2n.foundation import Foundation
from o2n.models import ClipModel, to_unit
from o2n.text import abnormal_probability, map_to_text, text_features
from tests.helpers import QUICK, checks

LEVELS = QUICK.encoder.levels


@pytest.fixture(scope="module")
def clip(foundation: Foundation) -> ClipModel:
    return foundation.clip


def test_text_features_are_two_unit_vectors_that_differ(clip: ClipModel) -> None:
    text = text_features(clip, "bolt")
    assert text.shape == (2, 128)
    torch.testing.assert_close(text.norm(dim=-1), torch.ones(2))
    assert (text[0] - text[1]).norm() > 1e-4
    assert not torch.equal(text, text_features(clip, "nut"))


def test_probabilities_are_the_softmax_of_both_classes(clip: ClipModel) -> None:
    features, text = patch_features(clip, [checks(0)], LEVELS), text_features(clip, "board")
    found = abnormal_probability(clip, features, text[None])
    mapped = map_to_text(clip, features)[0, 1, 5].numpy().astype(np.float64)
    normal, abnormal = np.exp(100 * (text.numpy().astype(np.float64) @ mapped))
    assert found[0, 1, 5].item() == pytest.approx(abnormal / (normal + abnormal), abs=1e-4)
    swapped = abnormal_probability(clip, features, text.flip(0)[None])
    torch.testing.assert_close(found + swapped, torch.ones_like(found))


def test_categories_share_a_batch_without_touching_each_other(clip: ClipModel) -> None:
    features = patch_features(clip, [checks(0), checks(1)], LEVELS)
    texts = torch.stack([text_features(clip, "board"), text_features(clip, "cloth")])
    both = abnormal_probability(clip, features, texts)
    torch.testing.assert_close(both[1:], abnormal_probability(clip, features[1:], texts[1:]), atol=1e-5, rtol=0)


def test_without_a_map_a_token_is_read_as_the_encoder_reads_its_own(clip: ClipModel) -> None:
    """The class token of the last block comes to where the encoder itself has the picture, patches by the same road."""
    seen: list[torch.Tensor] = []
    hook = clip.model.visual.transformer.resblocks[-1].register_forward_hook(lambda *args: seen.append(args[-1]))
    try:
        with torch.inference_mode():
            expected = clip.model.encode_image(clip.pixels(to_unit([checks(0)], clip.mean.device)), normalize=True)
    finally:
        hook.remove()
    token = torch.nn.functional.normalize(seen[0][:, :1], dim=-1)
    found = map_to_text(replace(clip, maps=None), token[:, None])[0, 0]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.gpu
def test_features_may_come_from_the_cpu(foundation: Foundation) -> None:
    """As they do in the service, whose encoder is another process."""
    clip = foundation.clip
    text = text_features(clip, "board")[None]
    features = patch_features(clip, [checks(0)], QUICK.encoder.levels)
    assert features.device.type == "cuda"
    assert torch.equal(abnormal_probability(clip, features.cpu(), text), abnormal_probability(clip, features, text))
