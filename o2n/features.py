"""Pictures -> multi-level patch features of an image encoder."""

import torch
import torch.nn.functional as F
from torch import Tensor

from o2n.foundation import Foundation
from o2n.images import Picture
from o2n.models import VisionModel, to_unit


@torch.inference_mode()
def patch_features(encoder: VisionModel, pictures: list[Picture] | Tensor, levels: tuple[int, ...]) -> Tensor:
    """Patch features of every picture at every level: F_q,l of the paper's section 3.4.

    Args:
        pictures: B pictures of one size, uint8 (H, W, 3), or float32 (B, 3, H, W) in [0, 1].
        levels: blocks whose output is taken, counted from 1.

    Returns:
        float32 (B, L, G, D), each D-vector of length 1; G patches in row-major order, on the model's device.
    """
    x = pictures if isinstance(pictures, Tensor) else to_unit(pictures, encoder.mean.device)
    return F.normalize(torch.stack(encoder.blocks(x, levels), dim=1), dim=-1)


def features_to_compare(foundation: Foundation, pictures: list[Picture] | Tensor) -> Tensor:
    """F_q,l of S_P and S_N; as `patch_features`."""
    return patch_features(foundation.comparing, pictures, foundation.profile.comparing.levels)


def features_to_read(foundation: Foundation, pictures: list[Picture] | Tensor, compared: Tensor) -> Tensor:
    """F_q,l of S_text, as `patch_features`: what `features_to_compare` found in the same pictures, `compared`, where
    CLIP does both."""
    if foundation.comparing is foundation.clip:
        return compared
    return patch_features(foundation.clip, pictures, foundation.profile.encoder.levels)


@torch.inference_mode()
def personal_distance(features: Tensor, counterpart_features: Tensor) -> Tensor:
    """1 - <F_q,l, F̂_q,l> at the same grid place, the inner term of eq. (4).

    Args: both float32 (B, L, G, D), D-vectors of length 1. Returns: float32 (B, L, G) in [0, 2], on the CPU.
    """
    return (1 - (features * counterpart_features).sum(dim=-1)).clamp_min(0).cpu()
