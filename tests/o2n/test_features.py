"""Patch features, the memory bank and text scores, each against a slow reference of its own."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from o2n.bank import MemoryBank
from o2n.features import over_scales, patch_features, personal_distance
from o2n.foundation import load_foundation
from o2n.images import resize
from o2n.models import to_unit
from o2n.text import abnormal_probability, map_to_text, text_features
from tests.helpers import QUICK, checks, stripes

CLIP = load_foundation(QUICK).clip
LEVELS = QUICK.encoder.levels


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_features_are_unit_vectors_in_the_shape_promised() -> None:
    features = patch_features(CLIP, [checks(0), checks(1)], LEVELS)
    assert features.shape == (2, len(LEVELS), 256, 128)
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(features.shape[:-1]))


def test_features_are_what_the_blocks_put_out() -> None:
    seen: dict[int, torch.Tensor] = {}
    blocks = CLIP.model.visual.transformer.resblocks
    hooks = [
        blocks[level - 1].register_forward_hook(lambda _m, _i, out, level=level: seen.update({level: out}))
        for level in LEVELS
    ]
    with torch.inference_mode():
        CLIP.model.encode_image(CLIP.pixels(to_unit([checks(0)], torch.device("cpu"))))
    for hook in hooks:
        hook.remove()
    features = patch_features(CLIP, [checks(0)], LEVELS)
    for index, level in enumerate(LEVELS):
        patches = seen[level][0, 1:]  # the class token comes first
        torch.testing.assert_close(features[0, index], torch.nn.functional.normalize(patches, dim=-1))


def test_a_batch_of_one_equals_a_batch_of_many() -> None:
    pictures = [resize(stripes(seed), 64) for seed in range(5)]
    many = patch_features(CLIP, pictures, LEVELS)
    for index, picture in enumerate(pictures):
        torch.testing.assert_close(many[index], patch_features(CLIP, [picture], LEVELS)[0], atol=1e-5, rtol=0)


def test_a_picture_is_at_no_distance_from_itself() -> None:
    features = patch_features(CLIP, [checks(0)], LEVELS)
    assert personal_distance(features, features).max() < 1e-6
    assert personal_distance(features, patch_features(CLIP, [checks(1)], LEVELS)).max() > 1e-3


def test_a_closer_look_is_at_each_part_as_at_a_picture_of_its_own() -> None:
    picture = stripes(7, 192, 192)
    features = patch_features(CLIP, [resize(picture, 128)], LEVELS, scales=2)
    assert features.shape == (1, 2 * len(LEVELS), 256, 128)
    assert torch.equal(features[:, : len(LEVELS)], patch_features(CLIP, [resize(picture, 128)], LEVELS))
    closer = features[0, len(LEVELS) :].unflatten(1, (16, 16))
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        part = resize(picture, 128)[64 * row : 64 * (row + 1), 64 * column : 64 * (column + 1)]
        own = patch_features(CLIP, [part], LEVELS)[0].unflatten(1, (8, 2, 8, 2)).mean(dim=(2, 4))
        found = closer[:, 8 * row : 8 * (row + 1), 8 * column : 8 * (column + 1)]
        torch.testing.assert_close(found, torch.nn.functional.normalize(own, dim=-1), atol=1e-5, rtol=0)


def test_a_closer_look_sees_what_the_whole_blurs() -> None:
    calm = np.full((128, 128, 3), 128, np.uint8)
    grain = np.where(np.indices((128, 128)).sum(axis=0) % 2, 60, -60)  # gone where four pixels become one
    grained = (calm + grain[..., None]).astype(np.uint8)
    one, other = (patch_features(CLIP, [picture], LEVELS, scales=2) for picture in (calm, grained))
    distance = (1 - (one * other).sum(dim=-1)).unflatten(1, (2, len(LEVELS))).mean(dim=(0, 2, 3))
    assert distance[1] > 10 * distance[0]


def test_what_a_branch_says_is_the_mean_over_its_scales() -> None:
    local = torch.rand(2, 6, 5)
    torch.testing.assert_close(over_scales(local, 3), (local[:, :3] + local[:, 3:]) / 2)
    assert torch.equal(over_scales(local, 6), local)


def test_the_counterpart_is_compared_as_a_whole() -> None:
    features = unit(2, 6, 20, 32)
    assert torch.equal(
        personal_distance(features, features[:, :3]), personal_distance(features[:, :3], features[:, :3])
    )


def test_the_bank_finds_what_brute_force_finds() -> None:
    bank, queries = unit(7, 3, 20, 32, seed=1), unit(4, 3, 20, 32, seed=2)
    found = MemoryBank(bank).distance(queries)
    for level in range(3):
        similarity = queries[:, level].reshape(-1, 32) @ bank[:, level].reshape(-1, 32).T
        expected = (1 - similarity.max(dim=1).values).reshape(4, 20)
        torch.testing.assert_close(found[:, level], expected, atol=1e-5, rtol=0)


def test_what_is_in_the_bank_is_at_no_distance() -> None:
    bank = unit(7, 3, 20, 32)
    assert MemoryBank(bank).distance(bank[2:4]).max() < 1e-5


@pytest.mark.gpu
def test_the_bank_is_the_same_on_a_gpu() -> None:
    bank, queries = unit(7, 3, 20, 32, seed=1), unit(4, 3, 20, 32, seed=2)
    on_gpu = MemoryBank(bank.cuda()).distance(queries.cuda())
    torch.testing.assert_close(on_gpu, MemoryBank(bank).distance(queries), atol=1e-5, rtol=0)


def test_text_features_are_two_unit_vectors_that_differ() -> None:
    text = text_features(CLIP, "bolt")
    assert text.shape == (2, 128)
    torch.testing.assert_close(text.norm(dim=-1), torch.ones(2))
    assert (text[0] - text[1]).norm() > 1e-4
    assert not torch.equal(text, text_features(CLIP, "nut"))


def test_probabilities_are_the_softmax_of_both_classes() -> None:
    features, text = patch_features(CLIP, [checks(0)], LEVELS), text_features(CLIP, "board")
    found = abnormal_probability(CLIP, features, text[None])
    mapped = map_to_text(CLIP, features)[0, 1, 5].numpy().astype(np.float64)
    normal, abnormal = np.exp(100 * (text.numpy().astype(np.float64) @ mapped))
    assert found[0, 1, 5].item() == pytest.approx(abnormal / (normal + abnormal), abs=1e-4)
    swapped = abnormal_probability(CLIP, features, text.flip(0)[None])
    torch.testing.assert_close(found + swapped, torch.ones_like(found))


def test_categories_share_a_batch_without_touching_each_other() -> None:
    features = patch_features(CLIP, [checks(0), checks(1)], LEVELS)
    texts = torch.stack([text_features(CLIP, "board"), text_features(CLIP, "cloth")])
    both = abnormal_probability(CLIP, features, texts)
    torch.testing.assert_close(both[1:], abnormal_probability(CLIP, features[1:], texts[1:]), atol=1e-5, rtol=0)


def test_an_encoder_in_half_the_bits_sees_and_reads_nearly_the_same() -> None:
    clip = replace(CLIP, maps=None)
    half = replace(clip, model=copy.deepcopy(clip.model))
    half.seeing.to(torch.bfloat16)
    text = torch.nn.functional.normalize(torch.randn(2, 2, clip.model.visual.output_dim), dim=-1)
    seen, read = [], []
    for model in (clip, half):
        seen.append(patch_features(model, [checks(0, 64), stripes(0, 64, 64)], (2, 5)))
        read.append(abnormal_probability(model, seen[-1], text))
    assert seen[1].dtype == read[1].dtype == torch.float32
    assert (seen[0] * seen[1]).sum(dim=-1).min() > 0.99
    assert (seen[0] - seen[1]).abs().max() > 0
    torch.testing.assert_close(read[1], read[0], atol=0.1, rtol=0)
