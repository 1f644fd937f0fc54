"""Pictures -> multi-level patch features of the CLIP image encoder."""

import torch
import torch.nn.functional as F
from torch import Tensor

from o2n.foundation import ClipModel, to_unit
from o2n.images import Picture


@torch.inference_mode()
def patch_features(clip: ClipModel, pictures: list[Picture] | Tensor, levels: tuple[int, ...]) -> Tensor:
    """Patch features of every picture at every level: F_q,l of the paper's section 3.4.

    Args:
        pictures: B pictures of one size, uint8 (H, W, 3), or float32 (B, 3, H, W) in [0, 1].
        levels: blocks whose output is taken, counted from 1.

    Returns:
        float32 (B, L, G, D), each D-vector of length 1; G patches in row-major order, on the model's device.
    """
    x = pictures if isinstance(pictures, Tensor) else to_unit(pictures, clip.mean.device)
    tokens = clip.model.visual.forward_intermediates(
        clip.pixels(x),
        indices=[level - 1 for level in levels],
        stop_early=True,
        intermediates_only=True,
        output_fmt="NLC",
    )["image_intermediates"]
    return F.normalize(torch.stack(tokens, dim=1), dim=-1)


@torch.inference_mode()
def personal_distance(features: Tensor, counterpart_features: Tensor) -> Tensor:
    """1 - <F_q,l, F̂_q,l> at the same grid place, the inner term of eq. (4).

    Args: both float32 (B, L, G, D), D-vectors of length 1. Returns: float32 (B, L, G) in [0, 2], on the CPU.
    """
    return (1 - (features * counterpart_features).sum(dim=-1)).clamp_min(0).cpu()
