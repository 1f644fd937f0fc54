"""Training of the embedded diffusion model: text-conditional, on pixels, predicting x0.

Beside the usual task (a noised normal picture -> that picture) it is given what no public data has: a spoilt picture,
noised, whose target under a normal prompt is its exact normal twin, and under an abnormal prompt the picture itself.
So the prompts of eq. (2) mean something, and redrawing (eq. 3) takes away what a defect has put there.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler
from PIL import Image
from torch import Tensor, nn

from o2n import prompts
from o2n.data.defects import VALIDATION_DEFECTS
from o2n.data.procedural import TRAINING, VALIDATION, Category, Pictures, abnormal_captions, draw, normal_captions
from o2n.evaluation.metrics import masked_error, ssim_outside
from o2n.graphs import training_step
from o2n.mixture import BASE
from o2n.models import DiffusionModel
from o2n.personalize import redraw, seeded_noise
from o2n.profiles import TINY
from o2n.tiny.training import (
    Prompts,
    Trainer,
    TrainingPlan,
    any_word,
    categories,
    draw_category,
    half_products,
    plain_attention,
    to_tensor,
)

GROUPS, EACH = 8, 2  # categories in a batch, pictures of each in the usual one
IN_MASK = 10.0  # how much more an error counts where the defect is
CRISP = 0.5  # errors below this count by their size, above it by their square: fine detail is not blurred away
ABNORMAL, EMPTY = 0.2, 0.1  # shares of the prompts; rarer, they were not learned at all
MOST_WEIGHT = 5.0  # min-SNR weighting (Hang et al., 2023): weight of x0's error is SNR, at most this


def train_diffusion(model: DiffusionModel, plan: TrainingPlan) -> Trainer:
    """Train the UNet on what the text encoder, which stays as it is, says of prompts; sample grids are written to the
    plan's folder."""
    device = model.device
    modules = nn.ModuleDict({"unet": model.unet, "text_encoder": model.text_encoder}).train()
    model.unet.requires_grad_(True)
    model.unet.to(memory_format=torch.channels_last)
    trainer = Trainer(modules, plan)
    tokens = Prompts(model.tokenize)
    noising = model.noising
    with training_step(model) as predict:
        for step, rng, drawn in trainer.rounds(functools.partial(_batch, EACH * plan.larger)):
            clean, spoilt, masks, texts = _tensors(drawn, rng, device)
            with plain_attention():
                loss = _loss(model, predict, noising, clean, spoilt, masks, tokens(texts).to(device), plan.larger)
                trainer.update(loss)
            if step % 50 == 0:
                print(f"step {step} loss {loss.item():.4f}", flush=True)
            if step % plan.report_every == 0 and step:
                with trainer.averaged():
                    print(f"step {step}: {look(model, plan.folder / f'samples-{step:06d}.png')}", flush=True)
                modules.train()
    return trainer


def _batch(each: int, rng: np.random.Generator) -> list[Pictures]:
    """`each` spoilt pictures of every one of some categories."""
    return [draw_category(category, 0, each, rng) for category in categories(rng, TRAINING, GROUPS)]


def _tensors(
    drawn: list[Pictures], rng: np.random.Generator, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, list[str]]:
    """What is to be drawn and what is shown, float32 (B, 3, S, S) in [-1, 1]; masks (B, 1, S, S); prompts."""
    shares, kept, texts = [], [], []
    for pictures in drawn:
        for _ in pictures.kinds:
            chance, empty = rng.uniform(), rng.uniform() < EMPTY
            abnormal = chance < ABNORMAL
            kept.append(abnormal or empty)
            # How much of the defect is there: all of it, some (as in the middle of a denoising run), or nothing.
            shares.append(1.0 if chance < 0.75 else rng.uniform() if chance < 0.85 else 0.0)
            word = pictures.category.word if rng.uniform() < 0.6 else any_word(rng)
            captions = (abnormal_captions if abnormal else normal_captions)(word)
            texts.append("" if empty else str(rng.choice(captions)))
    twins, spoilt = (
        to_tensor(np.concatenate(seen), device) * 2 - 1
        for seen in ([d.twins for d in drawn], [d.pictures for d in drawn])
    )
    share, keep = (torch.tensor(all_, device=device)[:, None, None, None] for all_ in (shares, kept))
    shown = twins + share * (spoilt - twins)
    masks = torch.from_numpy(np.concatenate([d.masks for d in drawn])).to(device).float()[:, None]
    return torch.where(keep, shown, twins), shown, masks, texts


def _loss(
    model: DiffusionModel,
    predict: Callable[[Tensor, Tensor, Tensor], Tensor],
    scheduler: DDIMScheduler,
    clean: Tensor,
    spoilt: Tensor,
    masks: Tensor,
    tokens: Tensor,
    times: int,
) -> Tensor:
    """Each picture is noised `times` times."""
    clean, spoilt, masks, tokens = (x.repeat(times, *[1] * (x.ndim - 1)) for x in (clean, spoilt, masks, tokens))
    count = len(clean)
    # Queries are redrawn from small t alone: most of the training goes where most of the use is.
    often = torch.rand(count) < 0.85
    low, width = torch.where(often, 0.0, 0.12), torch.where(often, 0.12, 0.88)
    t = ((low + width * torch.rand(count)) * scheduler.config.num_train_timesteps).long().clamp(0, 999).to(clean.device)
    noised = F.pixel_unshuffle(scheduler.add_noise(spoilt, torch.randn_like(spoilt), t), model.fold)
    with half_products(clean.device):
        text = model.text_encoder(tokens)[0]
        predicted = predict(noised.to(memory_format=torch.channels_last), t, text)
    alpha = scheduler.alphas_cumprod.to(clean.device)[t].view(-1, 1, 1, 1)
    weight = (alpha / (1 - alpha)).clamp(0.05, MOST_WEIGHT)
    off = F.pixel_shuffle(predicted, model.fold) - clean
    return (weight * (1 + IN_MASK * masks) * (off**2 + CRISP * off.abs())).mean()


@dataclass(frozen=True)
class Redrawn:
    """What redrawing does to the validation families, without any adapter.

    gone: for each family, the share of the error inside the masks that is gone under a normal prompt.
    gone_abnormal: the mean of the same under an abnormal one. like: SSIM to the query outside the masks, under the
    normal one.
    """

    gone: dict[str, float]
    gone_abnormal: float
    like: float

    def __str__(self) -> str:
        each = " ".join(f"{family} {gone:.2f}" for family, gone in self.gone.items())
        gone = f"gone {np.mean([*self.gone.values()]):.3f} ({each}), under an abnormal prompt {self.gone_abnormal:.3f}"
        return f"{gone}, ssim outside {self.like:.3f}"


@torch.inference_mode()
def look(model: DiffusionModel, picture: Path) -> Redrawn:
    """Redraw queries of the validation families and write a picture of them: a row a query, which is followed by its
    redrawings under a normal and an abnormal prompt and by its normal twin."""
    model.unet.eval()
    rows, gone, gone_abnormal, like = [], {}, [], []
    for number, family in enumerate(VALIDATION):
        drawn = draw(Category(family, number), 0, 4, 99, defects=VALIDATION_DEFECTS)
        queries, twins = drawn.pictures / np.float32(255), drawn.twins / np.float32(255)
        noise = seeded_noise(number, (4, *model.latent_shape)).to(model.device)
        latents, shown = model.encode(list(drawn.pictures)), [queries]
        for prompt in (prompts.personal_prompts(drawn.category.word, 1), prompts.abnormal_prompts(drawn.category.word)):
            text = model.embed(prompt[:1]).expand(4, -1, -1)
            steps = TINY.diffusion.steps
            redrawn = redraw(model, latents, noise, text, [BASE] * 4, t=TINY.t, steps=steps, guidance=1.0)
            shown.append(model.decode(redrawn).permute(0, 2, 3, 1).cpu().numpy())
        before, normal, abnormal = (float(masked_error(one, twins, drawn.masks).mean()) for one in shown)
        gone[family] = 1 - normal / before
        gone_abnormal.append(1 - abnormal / before)
        like.append(ssim_outside(shown[1], queries, drawn.masks).mean())
        rows.append(np.concatenate([np.concatenate(four, axis=1) for four in zip(*shown, twins, strict=True)], axis=1))
    Image.fromarray((np.concatenate(rows) * 255).astype(np.uint8)).save(picture)
    return Redrawn(gone, float(np.mean(gone_abnormal)), float(np.mean(like)))
