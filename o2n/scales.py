"""How each branch scores a category's own good pictures: the scale on which a calibrated profile fuses the branches.

The paper adds the branches as they are (eq. 7). Where one of them strays more among good pictures than another says of
bad ones, the sum is ruled by the worse; in deviations of the good pictures, each counts by what it can tell apart.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from o2n.foundation import Foundation
from o2n.images import Picture
from o2n.normals import branch_values, image_scores, leave_one_out
from o2n.personalize import seeded_noise

# Deviations of few and related pictures come out too small by chance: this share of the mean is added to them.
LEAST_SPREAD = 0.1
# Good pictures that do not differ at all, such as flat ones, have no spread: not every speck is infinitely anomalous.
LEAST_DEVIATION = 1e-4

UNSCALED = torch.tensor([[0.0, 1.0]] * 3)


def branch_scales(
    foundation: Foundation,
    adapter: str,
    views: list[Picture],
    features: Tensor,
    origins: Sequence[int | None],
    kept: Tensor | None,
    text: Tensor,
    object_word: str,
) -> Tensor:
    """Mean and deviation of S_P, S_N and S_text over the references and their moved views.

    S_N leaves one out: a view is compared with the bank without anything that was made of its own reference.

    Args:
        adapter: name of the category's adapter in the UNet.
        views: the references, uint8 (H, W, 3) of one size, then their moved views, as they are in the bank.
        features, origins, kept: the bank, which begins with the views; as for `leave_one_out`.
        text: float32 (2, E), the category's text features.

    Returns: float32 (3, 2), a row of mean and deviation for each of S_P, S_N, S_text.
    """
    profile, count = foundation.profile, len(views)
    noise = seeded_noise(profile.seed + 4, (count, *foundation.diffusion.latent_shape))
    distances = leave_one_out(features, origins, count, kept, profile.place_weight)
    values = branch_values(foundation, adapter, views, noise, features[:count], distances, text, object_word)
    scores = torch.stack([image_scores(local) for local in values], dim=1)
    mean = scores.mean(dim=0)
    return torch.stack([mean, (scores.std(dim=0) + LEAST_SPREAD * mean).clamp_min(LEAST_DEVIATION)], dim=1)
