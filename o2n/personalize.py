"""Pictures + adapters -> their normal counterparts (eq. 2, 3). Pictures of different categories share every batch."""

import functools
import hashlib

import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from o2n import images
from o2n.graphs import unet_step
from o2n.images import Picture
from o2n.mixture import mixed_adapters
from o2n.models import DiffusionModel, resized, to_unit

MAX_BATCH = 32


@torch.inference_mode()
def personalize(
    model: DiffusionModel,
    pictures: list[Picture],
    texts: list[Tensor],
    adapters: list[str],
    noise: Tensor,
    *,
    t: float,
    steps: int,
    guidance: float,
) -> Tensor:
    """Redraw each picture with each of its prompts (eq. 3) and keep the redrawing most like it (eq. 2).

    Args:
        pictures: B queries, uint8 (H, W, 3) of any sizes; R below is the model's resolution.
        texts: for each query its P prompts' conditioning, float32 (P, tokens, width); P is the same for all.
        adapters: for each query the name of its category's adapter in the UNet, or `BASE`.
        noise: float32 (B, C, h, w); one per query, shared by its prompts, so that they differ in the prompt alone.
        t: how far a query is noised, as a fraction of the schedule: 0 returns the queries, 1 forgets them.
        steps: steps of a whole run; round(t · steps) of them are taken.

    Returns:
        B counterparts, float32 (B, 3, R, R) in [0, 1], on the CPU. Not rounded to 8 bits: at the border of two values
        the last digit of a sum would decide, and that differs from batch to batch and machine to machine.
    """
    wanted = torch.cat([resized(to_unit([one], torch.device("cpu")), model.resolution) for one in pictures])
    if round(t * steps) == 0:
        return wanted
    counterparts = []
    prompts = len(texts[0])
    # A CPU's products sum in an order that depends on the number of rows. Picture by picture, which costs it less than
    # a tenth of its speed, a counterpart is the same to the last bit in any company.
    chunk = 1 if model.device.type == "cpu" else max(1, MAX_BATCH // prompts)
    for start in range(0, len(pictures), chunk):
        part = slice(start, start + chunk)
        redrawn = model.decode(
            redraw(
                model,
                model.encode(wanted[part]).repeat_interleave(prompts, dim=0),
                noise[part].repeat_interleave(prompts, dim=0),
                torch.cat(texts[part]),
                [name for name in adapters[part] for _ in range(prompts)],
                t=t,
                steps=steps,
                guidance=guidance,
            )
        )
        counterparts += [
            most_similar(query, redrawn[index * prompts : (index + 1) * prompts])
            for index, query in enumerate(wanted[part])
        ]
    return torch.stack(counterparts)


@torch.inference_mode()
def redraw(
    model: DiffusionModel,
    latents: Tensor,
    noise: Tensor,
    text: Tensor,
    adapters: list[str],
    *,
    t: float,
    steps: int,
    guidance: float,
) -> Tensor:
    """x̂ = D_θ(√α_t x + √(1-α_t) ε, c, t), eq. (3), denoised by the model's solver, which adds no noise of its own.

    At t = 1 the run starts from the noise itself: √α_T is small but not 0, and would let the query shine through.
    Below, it starts at the first of the last round(t · steps) timesteps that the schedule has, a little before t · T
    where these are spaced to lead: DDIM by Stable Diffusion's own file starts 15 of 50 steps at 281 of 1000, not 300.

    Args:
        latents, noise: float32 (B, C, h, w).
        text: float32 (B, tokens, width).
        adapters: B names of adapters in the UNet, or `BASE`.
        guidance: classifier-free guidance against the empty prompt (Ho & Salimans, 2022); 1 is none.

    Returns: float32 (B, C, h, w).
    """
    scheduler = model.scheduler(steps)
    taken = round(t * steps)
    timesteps = scheduler.timesteps[steps - taken :]
    if taken == 0:
        return latents
    x = noise if taken == steps else model.noising.add_noise(latents, noise, timesteps[:1].to(latents.device))
    if hasattr(scheduler, "set_begin_index"):  # those that remember their earlier steps must be told which was first
        scheduler.set_begin_index(steps - taken)
    if guidance > 1:
        text = torch.cat([_empty_prompt(model).expand_as(text), text])
        adapters = adapters * 2
    with mixed_adapters(model.unet, adapters) as mixture:
        predict = unet_step(model, torch.cat([x, x]) if guidance > 1 else x, text, mixture)
        for step in timesteps:
            if guidance > 1:
                unguided, guided = predict(torch.cat([x, x]), step).chunk(2)
                prediction = unguided + guidance * (guided - unguided)
            else:
                prediction = predict(x, step)
            x = scheduler.step(prediction, step, x).prev_sample
    return x


@functools.cache
def _empty_prompt(model: DiffusionModel) -> Tensor:
    return model.embed([""])


def most_similar(query: Tensor, candidates: Tensor) -> Tensor:
    """The candidate with the smallest L(x_q, x̂_i) = 1 - SSIM, eq. (2); the first of equals.

    Args, in [0, 1]: query: float32 (3, R, R); candidates: float32 (P, 3, R, R), on the device that compares them.
    Returns: float32 (3, R, R), on the CPU.
    """
    shown = query.to(candidates.device).expand_as(candidates)
    similarity = structural_similarity_index_measure(candidates, shown, data_range=1.0, reduction="none")
    assert isinstance(similarity, Tensor)
    return candidates[int(similarity.argmax())].cpu()


def noise_for(picture: Picture, adapter: str, shape: tuple[int, int, int]) -> Tensor:
    """The noise of eq. (3), a function of the picture's content and the digest of the category's adapter alone.

    So a score depends neither on the batch nor on the process nor on the day, and a version that differs in its bank
    alone redraws a picture as the one before did. float32 `shape`, on the CPU.
    """
    seed = hashlib.sha256(f"{images.digest(picture)}:{adapter}".encode()).digest()
    return seeded_noise(int.from_bytes(seed[:8], "little", signed=True), shape)


def seeded_noise(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Gaussian noise from `seed`, float32 `shape`; drawn on the CPU so that every device gets the same."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
