"""What the branches say of a category's own normal pictures, each as if it were not in the bank: what scales,
calibrations and the warning of an odd reference are made of."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from o2n.bank import MemoryBank, coreset_without
from o2n.calibration import Calibration, NormalPicture, Origin
from o2n.category import Digest
from o2n.features import (
    counterpart_features,
    features_to_compare,
    features_to_read,
    over_scales,
    personal_distance,
    smoothed,
)
from o2n.foundation import Foundation
from o2n.fusion import fuse_with, image_score
from o2n.images import Picture, digest
from o2n.personalize import noise_for, personalize
from o2n.profiles import Profile
from o2n.prompts import personal_prompts
from o2n.text import abnormal_probability

BATCH = 16

# Of the validation families' good pictures, 2 to 8 at a time, 2% have one that stands out by that much; where one is
# spoilt, 50%; where one is of another product, 88% from 3 on, and none of 2.
ODD_RATIO = 2.0
# References that do not differ at all, such as flat ones, are at no distance, and nothing is infinitely many times it.
LEAST_DISTANCE = 1e-4


class Scale(NamedTuple):
    """What a branch says of a version's good pictures (`scales.py`).

    mean: float32 (), (L, G) where it is known for every place, or (B, L, G) where for each of B pictures. deviation:
        float32 ().
    """

    mean: Tensor
    deviation: Tensor

    def of(self, local: Tensor) -> Tensor:
        """A branch's values float32 (…, L, G) in deviations of those: what a calibrated profile fuses."""
        return (local - self.mean) / self.deviation


def scales_of(rows: Tensor, usual: Tensor | None) -> list[Scale]:
    """The scales of S_P, S_N and S_text.

    Args: as `scales.branch_scales` finds them: rows: float32 (3, 2); usual: float32 (2, L, G), of S_P and S_N, or
        (2, B, L, G), for each of B pictures.
    """
    places = [0.0] * 3 if usual is None else [*usual, 0.0]
    return [Scale(mean + place, deviation) for (mean, deviation), place in zip(rows, places, strict=True)]


def encode(foundation: Foundation, pictures: list[Picture]) -> Tensor:
    """Features to compare of any number of pictures, batch by batch: float32 (N, S·L, G, D), on the CPU."""
    parts = [pictures[start : start + BATCH] for start in range(0, len(pictures), BATCH)]
    return torch.cat([features_to_compare(foundation, part).cpu() for part in parts])


def leave_one_out(
    features: Tensor,
    origins: Sequence[int | None],
    count: int,
    kept: Tensor | None = None,
    place_weight: float = 0.0,
) -> Tensor:
    """S_N's inner term of the bank's first `count` pictures, each beside the bank without all that was made of its own
    reference.

    Args:
        features: float32 (N, S·L, G, D) of the bank, at S scales.
        origins: of each of its pictures, the reference it was made of.
        kept, place_weight: as for `MemoryBank`. In the place of the reference's own kept patches come as many others:
            those for which they stood would else be missing too.

    Returns: float32 (count, S·L, G), on the CPU.
    """
    distances = torch.empty((count, *features.shape[1:3]))
    for reference in dict.fromkeys(origins[:count]):
        own = [row for row, origin in enumerate(origins) if origin == reference]
        others = None if kept is None else coreset_without(features, kept, own, place_weight)
        bank = MemoryBank(features, others, place_weight)
        bank.remove(own)
        rows = [row for row in range(count) if origins[row] == reference]
        distances[rows] = bank.distance(features[rows])
    return distances


def branch_values(
    foundation: Foundation,
    adapter: str,
    pictures: list[Picture],
    noise: Tensor,
    features: Tensor,
    distances: Tensor,
    text: Tensor,
    object_word: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """What the branches say of every patch, in their own units: the inner terms of eq. (4), (5), (6), smoothed as the
    profile has it.

    Args:
        adapter: name of the category's adapter in the UNet.
        pictures: B, uint8 (H, W, 3) of one size. noise: float32 (B, C, h, w), of eq. (3).
        features: float32 (B, S·L, G, D), the pictures' at S scales. distances: float32 (B, S·L, G), to the nearest
            patch of a bank.
        text: float32 (2, E), the category's text features.

    Returns: S_P, S_N, S_text, each float32 (B, L, G) on the CPU, L and G its encoder's.
    """
    profile, model, device = foundation.profile, foundation.diffusion, foundation.clip.mean.device
    prompts = model.embed(personal_prompts(object_word, profile.prompts), model.text_loras.get(adapter))
    counterparts = personalize(
        model,
        pictures,
        [prompts] * len(pictures),
        [adapter] * len(pictures),
        noise.to(model.device),
        t=profile.t,
        steps=profile.diffusion.steps,
        guidance=profile.guidance,
    )
    redrawn, read = [], []
    for start in range(0, len(pictures), BATCH):
        part = slice(start, start + BATCH)
        redrawn.append(counterpart_features(foundation, counterparts[part]).cpu())
        seen = features_to_read(foundation, pictures[part], features[part].to(device))
        read.append(abnormal_probability(foundation.clip, seen, text.expand(len(seen), -1, -1)).cpu())
    return (
        smoothed(personal_distance(features, torch.cat(redrawn)), profile.smoothing),
        smoothed(over_scales(distances, len(profile.comparing.levels)), profile.smoothing),
        smoothed(over_scales(torch.cat(read), len(profile.encoder.levels)), profile.smoothing),
    )


def image_scores(local: Tensor) -> Tensor:
    """The outer terms of eq. (4), (5), (6). float32 (…, L, G) -> (…)."""
    return local.amax(dim=-1).mean(dim=-1)


def scaled_scores(local: Tensor, scale: Scale) -> list[float]:
    """A branch's scores on the version's scale, by the very steps that a query's are made in: a picture that comes
    again must not score a last digit above its own calibration. Args: local: float32 (B, L, G)."""
    return [image_score(one) for one in scale.of(local).numpy()]


def odd_reference(distances: Tensor) -> tuple[int, float] | None:
    """The reference that is unlike the others, if one stands out: left out, its S_N is over `ODD_RATIO` times that of
    any other. Then what a category knows of good parts hangs on whether that picture was chosen.

    Args: distances: float32 (R, S·L, G), of each reference to the bank without it.
    Returns: which it is, and how many times as far from the others as the next.
    """
    (farthest, second), order = image_scores(distances).topk(2)
    ratio = float(farthest / second.clamp_min(LEAST_DISTANCE))
    return (int(order[0]), ratio) if ratio > ODD_RATIO else None


def calibrate(
    foundation: Foundation,
    adapter: str,
    adapter_digest: Digest,
    references: list[Picture],
    extras: list[Picture],
    features: Tensor,
    distances: Tensor,
    text: Tensor,
    scales: Sequence[Scale],
    object_word: str,
) -> Calibration:
    """The references and the extra normal pictures with the very scores that a query gets, on the version's scales.

    Args: as `branch_values`, of the references and then of the extras; scales: of S_P, S_N and S_text, as
        `version.unpack_calibration_scales` has them.
    """
    pictures = references + extras
    shape = foundation.diffusion.latent_shape
    noise = torch.stack([noise_for(picture, adapter_digest, shape) for picture in pictures])
    values = branch_values(foundation, adapter, pictures, noise, features, distances, text, object_word)
    rows = list(zip(*map(scaled_scores, values, scales), strict=True))
    return Calibration.of(
        normal_picture(
            foundation.profile, digest(picture), "reference" if index < len(references) else "extra", *rows[index]
        )
        for index, picture in enumerate(pictures)
    )


def normal_picture(
    profile: Profile, picture: Digest, origin: Origin, s_p: float, s_n: float, s_text: float
) -> NormalPicture:
    """The record of a normal picture, its branches fused as the profile fuses those of queries (eq. 7)."""
    score = fuse_with(profile, s_p, s_n, s_text)
    return NormalPicture(picture=picture, origin=origin, score=score, s_p=s_p, s_n=s_n, s_text=s_text)
