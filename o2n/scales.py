"""How each branch scores a category's own good pictures: the scale on which a calibrated profile fuses the branches.

The paper adds the branches as they are (eq. 7). Where one of them strays more among good pictures than another says of
bad ones, the sum is ruled by the worse; in deviations of the good pictures, each counts by what it can tell apart.
"""

import torch
from torch import Tensor

from o2n.bank import MemoryBank
from o2n.features import patch_features, personal_distance
from o2n.foundation import Foundation
from o2n.images import Picture
from o2n.personalize import personalize, seeded_noise
from o2n.pool import bank_origins
from o2n.prompts import personal_prompts
from o2n.text import abnormal_probability

# Deviations of few and related pictures come out too small by chance: this share of the mean is added to them.
LEAST_SPREAD = 0.1
# Good pictures that do not differ at all, such as flat ones, have no spread: not every speck is infinitely anomalous.
LEAST_DEVIATION = 1e-4

BATCH = 16

UNSCALED = torch.tensor([[0.0, 1.0]] * 3)


def branch_scales(
    foundation: Foundation, adapter: str, views: list[Picture], features: Tensor, text: Tensor, object_word: str
) -> Tensor:
    """Mean and deviation of S_P, S_N and S_text over the references and their moved views.

    S_N leaves one out: a view is compared with the bank without anything that was made of its own reference.

    Args:
        adapter: name of the category's adapter in the UNet.
        views: the references, uint8 (R, R, 3), then their moved views, as they are in the bank.
        features: float32 (N, L, G, D) of the whole bank, which begins with the views.
        text: float32 (2, E), the category's text features.

    Returns: float32 (3, 2), a row of mean and deviation for each of S_P, S_N, S_text.
    """
    profile, model = foundation.profile, foundation.diffusion
    origins = bank_origins(len(views) // (1 + profile.pool.warps), profile)
    own = features[: len(views)]
    prompts = model.embed(personal_prompts(object_word, profile.prompts))
    counterparts = personalize(
        model,
        views,
        [prompts] * len(views),
        [adapter] * len(views),
        seeded_noise(profile.seed + 4, (len(views), *model.latent_shape)).to(model.device),
        t=profile.t,
        steps=profile.diffusion.steps,
        guidance=profile.diffusion.guidance,
    )
    redrawn = torch.cat(
        [patch_features(foundation.clip, part, profile.encoder.levels) for part in counterparts.split(16)]
    )
    normal = torch.empty(own.shape[:3])
    for reference in set(origins) - {None}:
        rows = [row for row in range(len(views)) if origins[row] == reference]
        others = [row for row, origin in enumerate(origins) if origin != reference]
        normal[rows] = MemoryBank(features[others]).distance(own[rows])
    personal = personal_distance(own.to(redrawn.device), redrawn)
    read = abnormal_probability(foundation.clip, own.to(redrawn.device), text.expand(len(own), -1, -1)).cpu()
    scores = torch.stack([local.amax(dim=-1).mean(dim=-1) for local in (personal, normal, read)])
    mean = scores.mean(dim=1)
    return torch.stack([mean, (scores.std(dim=1) + LEAST_SPREAD * mean).clamp_min(LEAST_DEVIATION)], dim=1)
