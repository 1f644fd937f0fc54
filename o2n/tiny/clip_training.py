"""Training of the embedded CLIP and of the text branch's linear maps (eq. 6), on what the three branches will ask.

Losses on batches of categories, each with references, queries, and what the queries should have looked like:
few-shot (a query patch's distance to the nearest patch of its own references, eq. 5, tells whether it is spoilt),
personal (so does its distance to the same place of a counterpart, eq. 4), text (so does its likeness to the abnormal
prompts, eq. 6), and CLIP's own contrast of whole pictures and prompts.
"""

import functools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.functional.classification import binary_auroc

from o2n.data.defects import VALIDATION_DEFECTS
from o2n.data.procedural import TRAINING, VALIDATION, Category, Pictures, abnormal_captions, draw, normal_captions
from o2n.mixture import BASE
from o2n.models import ClipModel, DiffusionModel
from o2n.personalize import redraw
from o2n.profiles import TINY
from o2n.prompts import personal_prompts
from o2n.text import LOGIT_SCALE
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

CATEGORIES, REFERENCES, GOOD, BAD = 4, 4, 2, 2
COVERED = 0.25  # a patch is spoilt if this share of it is
TOP = 3  # patches whose mean speaks for the whole picture in the loss; the score itself takes the maximum


class Judges(nn.Module):
    """What turns the distances of each level into logits while training; not part of what is shipped."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((2, levels), 2.5))
        self.bias = nn.Parameter(torch.full((2, levels), 0.2))
        self.contrast = nn.Parameter(torch.tensor(2.5))

    def forward(self, distance: Tensor, branch: int) -> Tensor:
        """Distances (..., L, G) -> logits of being spoilt."""
        return self.scale[branch].exp()[:, None] * (distance - self.bias[branch][:, None])


def train_clip(
    clip: ClipModel, levels: tuple[int, ...], plan: TrainingPlan, diffusion: DiffusionModel | None = None
) -> Trainer:
    """Train encoder, text tower and linear maps together; `clip.maps` must be there.

    The personal loss compares queries with their blurred normal twins, or, given a trained `diffusion` model, with
    what that makes of them: the very pairs of eq. (4).
    """
    device = clip.mean.device
    assert clip.maps is not None
    judges = Judges(len(levels)).to(device)
    modules = nn.ModuleDict({"clip": clip.model, "maps": clip.maps, "judges": judges}).requires_grad_(True).train()
    trainer = Trainer(modules, plan)
    prompts = Prompts(clip.tokenize)
    for step, rng, batch in trainer.rounds(functools.partial(_batch, CATEGORIES * plan.larger)):
        drawn, pictures, twins, masks = _tensors(batch, device)
        # While the patches say nothing, the text loss would only draw normal and abnormal prompts together.
        settled = diffusion is not None or step > plan.steps // 4
        counterparts: Tensor | None
        if diffusion is not None:
            counterparts = _redrawn(diffusion, drawn, pictures[:, REFERENCES:])
        else:
            # Blurred twins are the easiest to tell from what is spoilt: a third of the steps is enough.
            counterparts = _blurred(twins) if step % 3 == 0 else None
        with plain_attention():
            loss, parts = _loss(clip, judges, levels, prompts, rng, drawn, pictures, masks, counterparts, settled)
            trainer.update(loss)
        if step % 50 == 0:
            words = " ".join(f"{name} {value.item():.3f}" for name, value in parts.items())
            print(f"step {step} loss {loss.item():.3f} {words}", flush=True)
        if step % plan.report_every == 0 and step:
            with trainer.averaged():
                print(f"step {step}: {validate(clip, levels, prompts)}", flush=True)
            modules.train()
    return trainer


def _batch(count: int, rng: np.random.Generator) -> list[Pictures]:
    """Of `count` categories references and queries, the good queries first."""
    return [draw_category(c, REFERENCES + GOOD, BAD, rng) for c in categories(rng, TRAINING, count)]


def _tensors(drawn: list[Pictures], device: torch.device) -> tuple[list[Category], Tensor, Tensor, Tensor]:
    """Categories; their references and queries, float32 (C, R + Q, 3, S, S); the queries' normal twins (C, Q, 3, S, S)
    and masks (C, Q, S, S)."""
    pictures = to_tensor(np.stack([d.pictures for d in drawn]), device)
    twins = to_tensor(np.stack([d.twins[REFERENCES:] for d in drawn]), device)
    masks = torch.from_numpy(np.stack([d.masks[REFERENCES:] for d in drawn])).to(device).float()
    return [d.category for d in drawn], pictures, twins, masks


def _blurred(twins: Tensor) -> Tensor:
    """Twins (C, Q, 3, S, S) much as a diffusion model gives them back: blurred, a little off in light and detail."""
    x = twins.flatten(0, 1)
    soft = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    rand, randn = (functools.partial(draw, device=x.device) for draw in (torch.rand, torch.randn))
    x = x + rand(len(x), 1, 1, 1) * (soft - x)
    off = F.interpolate(randn(len(x), 3, 16, 16), size=x.shape[-2:], mode="bicubic")
    x = x * (1 + 0.03 * randn(len(x), 3, 1, 1)) + 0.03 * rand(len(x), 1, 1, 1) * off
    return x.clamp(0, 1).view_as(twins)


@torch.no_grad()
def _redrawn(diffusion: DiffusionModel, drawn: list[Category], queries: Tensor) -> Tensor:
    """Queries (C, Q, 3, S, S) redrawn as eq. (3) says, by the base model."""
    texts = [diffusion.embed(personal_prompts(category.word, 1)) for category in drawn]
    count = queries.shape[0] * queries.shape[1]
    latents = diffusion.encode(queries.flatten(0, 1))
    found = redraw(
        diffusion,
        latents,
        torch.randn(latents.shape).to(latents.device),
        torch.cat(texts).repeat_interleave(queries.shape[1], dim=0),
        [BASE] * count,
        t=TINY.t,
        steps=TINY.diffusion.steps,
        guidance=1.0,
    )
    # Tensors born in inference mode cannot take part in a gradient; copies can.
    return diffusion.decode(found).clone().view_as(queries)


def _loss(
    clip: ClipModel,
    judges: Judges,
    levels: tuple[int, ...],
    prompts: Prompts,
    rng: np.random.Generator,
    drawn: list[Category],
    pictures: Tensor,
    masks: Tensor,
    counterparts: Tensor | None,
    settled: bool,
) -> tuple[Tensor, dict[str, Tensor]]:
    device = clip.mean.device
    assert clip.maps is not None
    count, shown = len(drawn), pictures.shape[1]
    # The first good query does without a counterpart.
    everything = torch.cat([pictures, counterparts[:, 1:]], dim=1) if counterparts is not None else pictures
    with half_products(device):
        features, whole = encode(clip, everything.flatten(0, 1), levels)
        features = features.unflatten(0, (count, -1))
        queries = features[:, REFERENCES:shown].permute(0, 2, 1, 3, 4).flatten(2, 3)
        bank = features[:, :REFERENCES].permute(0, 2, 1, 3, 4).flatten(2, 3)
        with torch.no_grad():
            nearest = (queries @ bank.transpose(-1, -2)).argmax(dim=-1, keepdim=True)
        halves = _texts(clip, prompts, rng, drawn)
        text = F.normalize(halves.mean(dim=2), dim=-1)
        mapped = clip.maps(features[:, :shown])
        seen = F.normalize(whole.unflatten(0, (count, -1))[:, :shown], dim=-1)
        logits = judges.contrast.exp() * seen @ text[:-count].flatten(0, 1).T.to(seen.dtype)
    # Distances are differences of nearly equal numbers: not in bfloat16.
    found = bank.gather(2, nearest.expand(-1, -1, -1, bank.shape[-1]))
    few = (1 - (queries * found).sum(dim=-1)).unflatten(2, (-1, features.shape[-2])).transpose(1, 2)
    own = torch.from_numpy(rng.uniform(size=(count, 1, 1)) < 0.5).to(device)
    asked = torch.where(own, text[:count], text[-count:])
    towards = asked[:, 1] - asked[:, 0]
    if not settled:
        towards = towards.detach()
    read = LOGIT_SCALE * torch.einsum("cklge,ce->cklg", F.normalize(mapped.float(), dim=-1), towards)
    side = int(features.shape[-2] ** 0.5)
    covered = F.adaptive_avg_pool2d(masks, side).flatten(-2)
    all_covered = torch.cat([covered.new_zeros(count, REFERENCES, covered.shape[-1]), covered], dim=1)
    spoilt = torch.zeros(count, shown, dtype=torch.long, device=device)
    spoilt[:, REFERENCES + GOOD :] = 1
    target = spoilt + 2 * torch.arange(count, device=device)[:, None]
    told = judges(few, 0)
    parts = {
        "few": _ranked(told, covered) + 0.3 * _told_apart(told, covered),
        "text": _ranked(read, all_covered) + 0.3 * _told_apart(read, all_covered),
        "contrast": F.cross_entropy(logits.float().flatten(0, 1), target.flatten()),
        "names": _names(halves),
    }
    total = 2 * parts["few"] + 1.5 * parts["text"] + 0.2 * parts["contrast"] + 0.5 * parts["names"]
    if counterparts is not None:
        told = judges(1 - (features[:, REFERENCES + 1 : shown] * features[:, shown:]).sum(dim=-1), 1)
        parts["personal"] = _ranked(told, covered[:, 1:]) + 0.3 * _told_apart(told, covered[:, 1:])
        total = total + parts["personal"]
    return total, parts


def encode(clip: ClipModel, pictures: Tensor, levels: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Patch features (B, L, G, D) of length 1, as `features.patch_features` has them but with gradients, and the
    embeddings of the whole pictures (B, E)."""
    out = clip.model.visual.forward_intermediates(
        clip.pixels(pictures), indices=[level - 1 for level in levels], output_fmt="NLC"
    )
    return F.normalize(torch.stack(out["image_intermediates"], dim=1).float(), dim=-1), out["image_features"]


def _texts(clip: ClipModel, prompts: Prompts, rng: np.random.Generator, drawn: list[Category]) -> Tensor:
    """Embeddings of a few normal and abnormal prompts of each category, of 8 others, and of C words that nothing is
    called by, (C + 8 + C, 2, 2, E): the means of two halves of the prompts."""
    words = [category.word for category in drawn]
    words += [other.word for other in categories(rng, TRAINING, 16) if other.word not in words][:8]
    words += [any_word(rng) for _ in drawn]
    texts = []
    for word in words:
        texts += [str(text) for text in rng.choice(normal_captions(word), 4)]
        texts += [str(text) for text in rng.choice(abnormal_captions(word), 4)]
    embedded = clip.model.encode_text(prompts(texts).to(clip.mean.device), normalize=True)
    return embedded.unflatten(0, (len(words), 2, 2, 2)).mean(dim=3).float()


def _names(halves: Tensor) -> Tensor:
    """Half of a word's prompts must be known by the other half: keeps the text tower from calling everything the same,
    in which it would rest for long before pictures say anything to it."""
    a, b = (F.normalize(half, dim=-1).flatten(0, 1) for half in halves.unbind(dim=2))
    return F.cross_entropy(20 * a @ b.T, torch.arange(len(a), device=a.device))


def _told_apart(logits: Tensor, covered: Tensor) -> Tensor:
    """Spoilt and good patches told apart, both sides counting the same; and so the pictures, by their top patches.

    Args: logits (C, K, L, G); covered (C, K, G), the share of each patch that is spoilt.
    """
    spoilt, good = covered >= COVERED, covered == 0
    wide = logits.permute(2, 0, 1, 3)
    patches = F.softplus(-wide[:, spoilt]).mean() + F.softplus(wide[:, good]).mean()
    top = logits.topk(TOP, dim=-1).values.mean(dim=-1)
    bad = (covered > 0).any(dim=-1)[..., None].expand_as(top)
    return patches + F.softplus(-top[bad]).mean() + F.softplus(top[~bad]).mean()


def _ranked(logits: Tensor, covered: Tensor) -> Tensor:
    """Within each category, which is all that counts when it is scored: a bad picture's top patches above those of the
    good pictures, and its spoilt patches too.

    Args: logits (C, K, L, G), the last BAD pictures of each category bad; covered (C, K, G).
    """
    top = logits.topk(TOP, dim=-1).values.mean(dim=-1)
    good, bad = top[:, :-BAD], top[:, -BAD:]
    pictures = F.softplus(good[:, :, None] - bad[:, None]).mean()
    above = logits[:, -BAD:] - good.mean(dim=1)[:, None, :, None]
    spoilt = (covered[:, -BAD:] >= COVERED)[:, :, None].expand_as(above)
    return pictures + 0.3 * F.softplus(-above[spoilt]).mean()


@torch.no_grad()
def validate(clip: ClipModel, levels: tuple[int, ...], prompts: Prompts) -> str:
    """AUROC of the branches on the validation families, 4-shot, counterparts being blurred twins."""
    clip.model.eval()
    found: dict[str, list[float]] = {"s_p": [], "s_n": [], "s_text": []}
    for number, family in enumerate(VALIDATION):
        drawn = draw(Category(family, number), 4 + 12, 12, 7, defects=VALIDATION_DEFECTS)
        pictures, counterparts = to_tensor(drawn.pictures), _blurred(to_tensor(drawn.twins[4:])[None])[0]
        device = clip.mean.device
        features, _ = encode(clip, pictures.to(device), levels)
        redrawn, _ = encode(clip, counterparts.to(device), levels)
        queries = features[4:]
        bank = features[:4].transpose(0, 1).flatten(1, 2)
        distance = 1 - torch.einsum("blgd,lmd->blgm", queries, bank).amax(dim=-1)
        word = drawn.category.word
        texts = [
            F.normalize(clip.model.encode_text(prompts(all_).to(device), normalize=True).mean(dim=0), dim=-1)
            for all_ in (normal_captions(word), abnormal_captions(word))
        ]
        assert clip.maps is not None
        read = F.normalize(clip.maps(queries), dim=-1) @ (texts[1] - texts[0])
        labels = torch.from_numpy(drawn.labels[4:]).long()
        for branch, local in (("s_p", 1 - (queries * redrawn).sum(-1)), ("s_n", distance), ("s_text", read)):
            found[branch].append(float(binary_auroc(local.amax(dim=-1).mean(dim=-1).cpu(), labels)))
    return " ".join(f"{branch} {np.mean(values):.3f}" for branch, values in found.items())
