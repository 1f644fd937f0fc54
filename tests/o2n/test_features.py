"""Patch features, each against a slow reference of its own."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from o2n.features import over_scales, patch_features, personal_distance, smoothed
from o2n.foundation import Foundation
from o2n.images import resize
from o2n.models import ClipModel, to_unit
from o2n.text import abnormal_probability
from tests.helpers import QUICK, checks, stripes, unit

LEVELS = QUICK.encoder.levels


@pytest.fixture(scope="module")
def clip(foundation: Foundation) -> ClipModel:
    return foundation.clip


def test_features_are_unit_vectors_in_the_shape_promised(clip: ClipModel) -> None:
    features = patch_features(clip, [checks(0), checks(1)], LEVELS)
    assert features.shape == (2, len(LEVELS), 256, 128)
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(features.shape[:-1]))


def test_features_are_what_the_blocks_put_out(clip: ClipModel) -> None:
    seen: dict[int, torch.Tensor] = {}
    blocks = clip.model.visual.transformer.resblocks
    hooks = [
        blocks[level - 1].register_forward_hook(lambda _m, _i, out, level=level: seen.update({level: out}))
        for level in LEVELS
    ]
    with torch.inference_mode():
        clip.model.encode_image(clip.pixels(to_unit([checks(0)], torch.device("cpu"))))
    for hook in hooks:
        hook.remove()
    features = patch_features(clip, [checks(0)], LEVELS)
    for index, level in enumerate(LEVELS):
        patches = seen[level][0, 1:]  # the class token comes first
        torch.testing.assert_close(features[0, index], torch.nn.functional.normalize(patches, dim=-1))


def test_a_batch_of_one_equals_a_batch_of_many(clip: ClipModel) -> None:
    pictures = [resize(stripes(seed), 64) for seed in range(5)]
    many = patch_features(clip, pictures, LEVELS)
    for index, picture in enumerate(pictures):
        torch.testing.assert_close(many[index], patch_features(clip, [picture], LEVELS)[0], atol=1e-5, rtol=0)


def test_a_picture_is_at_no_distance_from_itself(clip: ClipModel) -> None:
    features = patch_features(clip, [checks(0)], LEVELS)
    assert personal_distance(features, features).max() < 1e-6
    assert personal_distance(features, patch_features(clip, [checks(1)], LEVELS)).max() > 1e-3


def test_a_closer_look_is_at_each_part_as_at_a_picture_of_its_own(clip: ClipModel) -> None:
    picture = stripes(7, 192, 192)
    features = patch_features(clip, [resize(picture, 128)], LEVELS, scales=2)
    assert features.shape == (1, 2 * len(LEVELS), 256, 128)
    assert torch.equal(features[:, : len(LEVELS)], patch_features(clip, [resize(picture, 128)], LEVELS))
    closer = features[0, len(LEVELS) :].unflatten(1, (16, 16))
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        part = resize(picture, 128)[64 * row : 64 * (row + 1), 64 * column : 64 * (column + 1)]
        own = patch_features(clip, [part], LEVELS)[0].unflatten(1, (8, 2, 8, 2)).mean(dim=(2, 4))
        found = closer[:, 8 * row : 8 * (row + 1), 8 * column : 8 * (column + 1)]
        torch.testing.assert_close(found, torch.nn.functional.normalize(own, dim=-1), atol=1e-5, rtol=0)


def test_a_closer_look_sees_what_the_whole_blurs(clip: ClipModel) -> None:
    calm = np.full((128, 128, 3), 128, np.uint8)
    grain = np.where(np.indices((128, 128)).sum(axis=0) % 2, 60, -60)  # gone where four pixels become one
    grained = (calm + grain[..., None]).astype(np.uint8)
    one, other = (patch_features(clip, [picture], LEVELS, scales=2) for picture in (calm, grained))
    distance = (1 - (one * other).sum(dim=-1)).unflatten(1, (2, len(LEVELS))).mean(dim=(0, 2, 3))
    assert distance[1] > 10 * distance[0]


def test_what_a_branch_says_is_the_mean_over_its_scales() -> None:
    local = torch.rand(2, 6, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(over_scales(local, 3), (local[:, :3] + local[:, 3:]) / 2)
    assert torch.equal(over_scales(local, 6), local)


def test_the_counterpart_is_compared_as_a_whole() -> None:
    features = unit(2, 6, 20, 32)
    assert torch.equal(
        personal_distance(features, features[:, :3]), personal_distance(features[:, :3], features[:, :3])
    )


def test_an_encoder_in_half_the_bits_sees_and_reads_nearly_the_same(clip: ClipModel) -> None:
    clip = replace(clip, maps=None)
    half = replace(clip, model=copy.deepcopy(clip.model))
    half.seeing.to(torch.bfloat16)
    text = unit(2, 2, clip.model.visual.output_dim)
    seen, read = [], []
    for model in (clip, half):
        seen.append(patch_features(model, [checks(0, 64), stripes(0, 64, 64)], (2, 5)))
        read.append(abnormal_probability(model, seen[-1], text))
    assert seen[1].dtype == read[1].dtype == torch.float32
    assert (seen[0] * seen[1]).sum(dim=-1).min() > 0.99
    assert (seen[0] - seen[1]).abs().max() > 0
    torch.testing.assert_close(read[1], read[0], atol=0.1, rtol=0)


@given(side=st.integers(1, 16), levels=st.integers(1, 3), sigma=st.floats(0.01, 4), seed=st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_smoothing_is_a_mean_of_neighbours(side: int, levels: int, sigma: float, seed: int) -> None:
    """It stays between the least and the most, leaves what is alike everywhere, and is the same bits in any company."""
    local = torch.rand(3, levels, side**2, generator=torch.Generator().manual_seed(seed))
    found = smoothed(local, sigma)
    assert found.dtype == torch.float32
    assert (found.amax(-1) <= local.amax(-1) + 1e-6).all()
    assert (found.amin(-1) >= local.amin(-1) - 1e-6).all()
    torch.testing.assert_close(smoothed(torch.full_like(local, 0.7), sigma), torch.full_like(local, 0.7))
    assert all(torch.equal(smoothed(local[row], sigma), found[row]) for row in range(3))
    assert smoothed(local, 0.0) is local


def test_smoothing_spreads_a_speck_evenly_and_less_than_a_patch_further() -> None:
    speck = torch.zeros(1, 1, 49)
    speck[..., 24] = 1.0
    grid = smoothed(speck, 0.6).reshape(7, 7)
    assert grid.sum() == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(grid, grid.T)
    torch.testing.assert_close(grid, grid.flip(0))
    assert grid[3, 3] > 2 * grid[3, 4] > 4 * grid[3, 5] > 0
