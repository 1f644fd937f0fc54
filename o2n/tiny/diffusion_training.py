"""Training of the embedded diffusion model: text-conditional, on pixels, predicting x0.

Beside the usual task (a noised normal picture -> that picture) it is given what no public data has: a spoilt picture,
noised, whose target under a normal prompt is its exact normal twin, and under an abnormal prompt the picture itself.
So the prompts of eq. (2) mean something, and redrawing (eq. 3) takes away what a defect has put there.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from o2n.data.procedural import TRAINING, VALIDATION, Category, abnormal_captions, draw, normal_captions
from o2n.foundation import DiffusionModel, to_unit
from o2n.personalize import BASE, redraw, seeded_noise
from o2n.tiny.training import Plan, Prompts, Trainer, categories, draw_category, to_tensor

GROUPS, EACH = 8, 2  # categories in a batch, pictures of each
MOST_WEIGHT = 5.0  # min-SNR weighting (Hang et al., 2023): weight of x0's error is SNR, at most this


def train_diffusion(model: DiffusionModel, plan: Plan) -> Trainer:
    """Train UNet and text encoder together; sample grids are written to the plan's folder."""
    device = model.device
    modules = nn.ModuleDict({"unet": model.unet, "text_encoder": model.text_encoder}).requires_grad_(True).train()
    model.unet.to(memory_format=torch.channels_last)
    trainer = Trainer(modules, plan)
    prompts = Prompts(model.tokenize)
    for step, rng in trainer.rounds():
        clean, spoilt, masks, texts, keep = _batch(rng)
        clean, spoilt, masks = clean.to(device) * 2 - 1, spoilt.to(device) * 2 - 1, masks.to(device)
        loss = _loss(model, clean, spoilt, masks, prompts(texts).to(device), keep)
        trainer.update(loss)
        if step % 50 == 0:
            print(f"step {step} loss {loss.item():.4f}", flush=True)
        if step % 500 == 0 and step:
            with trainer.averaged():
                _report(model, plan.folder, step)
            modules.train()
    return trainer


def _batch(rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor, list[str], list[bool]]:
    """Twins and spoilt pictures float32 (B, 3, S, S), masks (B, 1, S, S), prompts, and which prompts are abnormal."""
    clean, spoilt, masks, texts, keep = [], [], [], [], []
    for category in categories(rng, TRAINING, GROUPS):
        drawn = draw_category(category, 0, EACH, rng)
        twins, pictures = to_tensor(drawn.twins), to_tensor(drawn.pictures)
        for twin, picture, mask in zip(twins, pictures, torch.from_numpy(drawn.masks), strict=True):
            chance = rng.uniform()
            abnormal = chance < 0.12
            # How much of the defect is there: all of it, some (as in the middle of a denoising run), or nothing.
            share = 1.0 if chance < 0.6 else rng.uniform() if chance < 0.75 else 0.0
            shown = twin + share * (picture - twin)
            captions = (abnormal_captions if abnormal else normal_captions)(category.word)
            texts.append("" if rng.uniform() < 0.05 else str(rng.choice(captions)))
            clean.append(shown if abnormal else twin)
            spoilt.append(shown)
            masks.append(mask.float()[None])
            keep.append(abnormal)
    return torch.stack(clean), torch.stack(spoilt), torch.stack(masks), texts, keep


def _loss(
    model: DiffusionModel, clean: Tensor, spoilt: Tensor, masks: Tensor, tokens: Tensor, keep: list[bool]
) -> Tensor:
    scheduler = model.scheduler(steps=1)
    count = len(clean)
    # Redrawing starts at t = 0.3 and the pool at 0.5: most of the training goes where most of the use is.
    share = torch.rand(count)
    low, width = torch.where(share < 0.55, 0.0, 0.35), torch.where(share < 0.55, 0.35, 0.65)
    t = ((low + width * torch.rand(count)) * scheduler.config.num_train_timesteps).long().clamp(0, 999).to(clean.device)
    noised = scheduler.add_noise(spoilt, torch.randn_like(spoilt), t)
    with torch.autocast(clean.device.type, torch.bfloat16):
        text = model.text_encoder(tokens)[0]
        predicted = model.unet(noised.to(memory_format=torch.channels_last), t, text).sample
    alpha = scheduler.alphas_cumprod.to(clean.device)[t].view(-1, 1, 1, 1)
    weight = (alpha / (1 - alpha)).clamp(0.05, MOST_WEIGHT)
    return (weight * (1 + 3 * masks) * (predicted.float() - clean) ** 2).mean()


@torch.inference_mode()
def _report(model: DiffusionModel, folder: Path, step: int) -> None:
    """How much of the error inside the masks is gone after redrawing at t = 0.3, without any adapter; and a picture."""
    model.unet.eval()
    model.text_encoder.eval()
    rows, before, after, outside = [], [], [], []
    for number, family in enumerate(VALIDATION):
        drawn = draw(Category(family, number), 0, 4, 99)
        queries = to_unit(list(drawn.pictures), model.device)
        twins, masks = to_unit(list(drawn.twins), model.device), torch.from_numpy(drawn.masks).to(model.device)[:, None]
        noise = seeded_noise(number, (4, *model.latent_shape)).to(model.device)
        text = model.embed([f"a good photo of a {Category(family, 0).word} without flaw."]).expand(4, -1, -1)
        latents = redraw(model, queries * 2 - 1, noise, text, [BASE] * 4, t=0.3, steps=10, guidance=1.0)
        redrawn = model.decode(latents)
        before.append(((queries - twins).abs() * masks).sum() / masks.sum() / 3)
        after.append(((redrawn - twins).abs() * masks).sum() / masks.sum() / 3)
        outside.append(((redrawn - twins).abs() * ~masks).sum() / (~masks).sum() / 3)
        rows.append(
            torch.cat([torch.cat([q, r, n], dim=2) for q, r, n in zip(queries, redrawn, twins, strict=True)], 2)
        )
    grid = (torch.cat(rows, dim=1).permute(1, 2, 0).cpu().numpy() * 255).astype(np.uint8)
    Image.fromarray(grid).save(folder / f"samples-{step:06d}.png")
    gone = [1 - float(a / b) for a, b in zip(after, before, strict=True)]
    words = " ".join(f"{family} {value:.2f}" for family, value in zip(VALIDATION, gone, strict=True))
    left = np.mean([float(value) for value in outside])
    print(f"step {step}: gone inside {np.mean(gone):.3f} ({words}); error outside {left:.4f}", flush=True)
