"""Adapter + references -> the anomaly-free pool (the paper's section 3.4)."""

import math

import torch

from o2n import prompts
from o2n.images import Picture
from o2n.mixture import BASE
from o2n.models import DiffusionModel, to_pictures
from o2n.personalize import MAX_BATCH, personalize, redraw, seeded_noise
from o2n.poses import moved, pose_of
from o2n.profiles import Profile

# Degrees, scale, and shift as a fraction of half a side.
_VIEWS = (
    (5, 1.0, 0.0, 0.0),
    (-5, 1.0, 0.0, 0.0),
    (0, 1.06, 0.03, 0.03),
    (0, 0.95, -0.03, 0.03),
    (0, 1.0, 0.06, -0.06),
    (0, 1.0, 0.03, 0.03),  # a quarter of a patch of the embedded encoder, half of one where it looks closer
)


def draw_pool(
    model: DiffusionModel, adapter: str, references: list[Picture], object_word: str, profile: Profile, first: int = 0
) -> list[Picture]:
    """The generated part of the pool: half drawn from the customised model, half references redrawn with a larger t.

    Args:
        adapter: name of the category's adapter in the UNet.
        references: uint8 (H, W, 3) of one size.
        first: how many were redrawn before: references and prompts take turns, and the next ones follow.

    Returns: as many pictures as bring the references up to `profile.pool.pictures`, uint8 (R, R, 3).
    """
    drawn_count, redrawn_count = _counts(len(references), profile)
    drawn = _draw(
        model,
        adapter,
        prompts.instance_prompt(object_word, profile.customisation.prompt),
        drawn_count,
        profile,
        profile.seed + 1,
    )
    turns = range(first, first + redrawn_count)
    if not turns:
        return drawn
    lora = model.text_loras.get(adapter)
    texts = [model.embed([prompt], lora) for prompt in prompts.personal_prompts(object_word, 10)]
    redrawn = personalize(
        model,
        [references[turn % len(references)] for turn in turns],
        [texts[turn % len(texts)] for turn in turns],
        [adapter] * redrawn_count,
        seeded_noise(profile.seed + 2, (redrawn_count, *model.latent_shape)).to(model.device),
        t=profile.pool.t,
        steps=profile.diffusion.steps,
        guidance=profile.diffusion.guidance,
    )
    return drawn + to_pictures(redrawn)


def bank_origins(references: int, profile: Profile) -> list[int | None]:
    """For each picture of the bank as it is onboarded the reference it shows: the references come first, then their
    moved views, and last the pool, of which half shows none of them in particular. What is fed back since comes after
    these, each a reference of its own.

    Returns: places in the version's `references` blob, or None.
    """
    own = [index % references for index in range(references * (1 + profile.pool.warps))]
    return [*own, *pool_origins(references, profile)]


def pool_origins(references: int, profile: Profile, first: int = 0) -> list[int | None]:
    """The same for each picture of `draw_pool`, whose `first` it is."""
    drawn, redrawn = _counts(references, profile)
    return [*[None] * drawn, *(turn % references for turn in range(first, first + redrawn))]


def _counts(references: int, profile: Profile) -> tuple[int, int]:
    """How many pictures of the pool are drawn from nothing, and how many are references redrawn."""
    count = max(0, profile.pool.pictures - references)
    return count // 2, count - count // 2


def warped(references: list[Picture], count: int) -> list[Picture]:
    """`count` (0-6) views of each reference, slightly turned, scaled or shifted: what a patch encoder that was not
    trained on millions of photographs does not know to be the same. uint8 (R, R, 3)."""
    return moved(
        references, [pose_of(math.radians(degrees), dx, dy, scale=scale) for degrees, scale, dx, dy in _VIEWS[:count]]
    )


def draw_prior(model: DiffusionModel, object_word: str, profile: Profile) -> list[Picture]:
    """The class-prior pictures of eq. (1): what the base model, without any adapter, takes the class to be."""
    count = profile.customisation.prior_pictures
    return _draw(model, BASE, prompts.class_prompt(object_word), count, profile, profile.seed + 3)


def _draw(model: DiffusionModel, adapter: str, prompt: str, count: int, profile: Profile, seed: int) -> list[Picture]:
    noise = seeded_noise(seed, (count, *model.latent_shape)).to(model.device)
    text = model.embed([prompt], model.text_loras.get(adapter))
    pictures: list[Picture] = []
    for part in noise.split(MAX_BATCH) if count else ():
        latents = redraw(
            model,
            torch.zeros_like(part),
            part,
            text.expand(len(part), -1, -1),
            [adapter] * len(part),
            t=1.0,
            steps=profile.diffusion.steps,
            guidance=profile.diffusion.guidance,
        )
        pictures += to_pictures(model.decode(latents))
    return pictures
