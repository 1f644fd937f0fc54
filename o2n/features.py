"""Pictures -> multi-level patch features of an image encoder, at one or several scales."""

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from o2n.foundation import Foundation
from o2n.images import Picture
from o2n.models import VisionModel, resized, to_unit

T = TypeVar("T")
R = TypeVar("R")


@torch.inference_mode()
def patch_features(
    encoder: VisionModel, pictures: list[Picture] | Tensor, levels: tuple[int, ...], scales: int = 1
) -> Tensor:
    """Patch features of every picture at every scale and level: F_q,l of the paper's section 3.4, which has one scale.

    Args:
        pictures: B pictures of one size, uint8 (H, W, 3), or float32 (B, 3, H, W) in [0, 1].
        levels: blocks whose output is taken, counted from 1.
        scales: as in `EncoderSettings`.

    Returns:
        float32 (B, S·L, G, D), each D-vector of length 1: first the levels of the whole picture, then those of its
        2 × 2 parts, and so on; G patches in row-major order, the same at every scale; on the model's device.
    """
    x = pictures if isinstance(pictures, Tensor) else to_unit(pictures, encoder.mean.device)
    return torch.cat([_in_parts(encoder, x, levels, scale) for scale in range(1, scales + 1)], dim=1)


def features_to_compare(foundation: Foundation, pictures: list[Picture] | Tensor) -> Tensor:
    """F_q,l of S_P and S_N at as many scales as the pictures are large enough for; as `patch_features`."""
    settings = foundation.profile.comparing
    return patch_features(foundation.comparing, pictures, settings.levels, settings.scales_in(pictures[0].shape[-2]))


def features_to_read(foundation: Foundation, pictures: list[Picture] | Tensor, compared: Tensor) -> Tensor:
    """F_q,l of S_text, as `patch_features`: what `features_to_compare` found in the same pictures, `compared`, where
    CLIP does both."""
    return compared if foundation.comparing is foundation.clip else clip_features(foundation, pictures)


def clip_features(foundation: Foundation, pictures: list[Picture] | Tensor) -> Tensor:
    """F_q,l of S_text from CLIP itself; as `features_to_compare`."""
    settings = foundation.profile.encoder
    return patch_features(foundation.clip, pictures, settings.levels, settings.scales_in(pictures[0].shape[-2]))


def counterpart_features(foundation: Foundation, counterparts: Tensor) -> Tensor:
    """F̂_q,l of S_P, float32 (B, L, G, D): of counterparts as wholes, which are drawn no finer than that."""
    return patch_features(foundation.comparing, counterparts, foundation.profile.comparing.levels)


@torch.inference_mode()
def personal_distance(features: Tensor, redrawn: Tensor) -> Tensor:
    """1 - <F_q,l, F̂_q,l> at the same grid place, the inner term of eq. (4).

    Args, of D-vectors of length 1: features: of the queries, float32 (B, S·L, G, D), of which the first scale counts;
    redrawn: of their counterparts, float32 (B, L, G, D).

    Returns: float32 (B, L, G) in [0, 2], on the CPU.
    """
    whole = features[:, : redrawn.shape[1]]
    return (1 - (whole * redrawn).sum(dim=-1)).clamp_min(0).cpu()


def over_scales(local: Tensor, levels: int) -> Tensor:
    """The mean over the scales of what a branch says: float32 (B, S·L, G) -> (B, L, G), L being `levels`."""
    return local.unflatten(1, (-1, levels)).mean(dim=1)


def smoothed(local: Tensor, sigma: float) -> Tensor:
    """What a branch says, averaged over neighbouring patches by a Gaussian: a defect that is seen is seen in more than
    one of them, and chance is not. 0 changes nothing, as in the paper.

    Row by row and column by column, so that a value is the same bits in any company
    (docs.scipy.org/doc/scipy/reference/generated/scipy.ndimage.gaussian_filter.html).

    Args: local: float32 (…, G), on the CPU. sigma: its deviation, in patches. Returns: float32 (…, G).
    """
    if not sigma:
        return local
    side = math.isqrt(local.shape[-1])
    grids = local.unflatten(-1, (side, side)).numpy()
    return torch.from_numpy(ndimage.gaussian_filter(grids, sigma, mode="nearest", axes=(-2, -1))).flatten(-2)


def by_shape(run: Callable[[list[T]], Sequence[R]], items: list[T], shape: Callable[[T], tuple[int, ...]]) -> list[R]:
    """What `run` makes of each item, given all of one shape together: categories see their pictures at scales of their
    own, and only what has one shape can be one tensor."""
    found: dict[int, R] = {}
    for wanted in dict.fromkeys(map(shape, items)):
        rows = [row for row, item in enumerate(items) if shape(item) == wanted]
        found.update(zip(rows, run([items[row] for row in rows]), strict=True))
    return [found[row] for row in range(len(items))]


def _in_parts(encoder: VisionModel, x: Tensor, levels: tuple[int, ...], scale: int) -> Tensor:
    """Features of a picture's scale × scale parts, brought to the grid of the whole: of the patches that lie in one of
    its own the mean. float32 (B, 3, H, W) -> (B, L, G, D)."""
    if scale == 1:
        return _whole(encoder, x, levels)
    side = encoder.resolution
    rows = resized(x, scale * side).unflatten(2, (scale, side)).unflatten(4, (scale, side))
    # As a batch of pictures lies in memory: in another order its sums would be others, too.
    parts = rows.permute(0, 2, 4, 1, 3, 5).flatten(0, 2).contiguous(memory_format=torch.channels_last)
    found = _whole(encoder, parts, levels)
    grid = math.isqrt(found.shape[2])
    found = found.unflatten(2, (grid, grid)).unflatten(0, (-1, scale, scale))
    whole = found.permute(0, 3, 1, 4, 2, 5, 6).flatten(4, 5).flatten(2, 3)  # (B, L, scale · grid, scale · grid, D)
    pooled = whole.unflatten(3, (grid, scale)).unflatten(2, (grid, scale)).mean(dim=(3, 5))
    return F.normalize(pooled.flatten(2, 3), dim=-1)


def _whole(encoder: VisionModel, x: Tensor, levels: tuple[int, ...]) -> Tensor:
    return F.normalize(torch.stack(encoder.blocks(x, levels), dim=1).float(), dim=-1)
