"""Pictures of any sizes -> what the methods look at: patches and whole pictures, in batches, on the CPU."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from o2n import images
from o2n.evaluation.methods.interface import Scores
from o2n.features import patch_features
from o2n.images import Picture
from o2n.models import ClipModel, VisionModel, to_unit

BATCH = 16


def patches(encoder: VisionModel, pictures: list[Picture], levels: tuple[int, ...]) -> Tensor:
    """`patch_features` of any number of pictures: float32 (N, L, G, D), D-vectors of length 1."""
    small = [images.resize(picture, encoder.resolution) for picture in pictures]
    parts = [small[start : start + BATCH] for start in range(0, len(small), BATCH)]
    return torch.cat([patch_features(encoder, part, levels).cpu() for part in parts])


@torch.inference_mode()
def wholes(clip: ClipModel, pictures: list[Picture]) -> Tensor:
    """CLIP's embeddings of whole pictures: float32 (N, E), each of length 1."""
    small = [images.resize(picture, clip.resolution) for picture in pictures]
    parts = [small[start : start + BATCH] for start in range(0, len(small), BATCH)]
    found = [clip.model.encode_image(clip.pixels(to_unit(part, clip.mean.device))).float().cpu() for part in parts]
    return F.normalize(torch.cat(found), dim=-1)


def side_by_side(features: Tensor) -> Tensor:
    """The levels of each patch as one vector: float32 (N, L, G, D) -> (N, G, L·D).

    Each element has a variance of about 1, as the constants of the papers expect it; `patches` have a length of 1.
    """
    return features.transpose(1, 2).flatten(2) * math.sqrt(features.shape[-1])


def as_grid(values: Tensor) -> Tensor:
    """(…, G) in row-major order -> (…, g, g)."""
    side = math.isqrt(values.shape[-1])
    return values.unflatten(-1, (side, side))


def scored(scores: Tensor, maps: Tensor | None = None) -> Scores:
    """Args: scores (N,); maps: (N, G), one value per patch."""
    return Scores(
        scores.numpy().astype(np.float64),
        None if maps is None else np.ascontiguousarray(as_grid(maps).numpy(), dtype=np.float32),
    )
