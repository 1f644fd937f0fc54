"""An auxiliary set with masks -> one linear map per level into the space of the text features (F' of eq. 6).

The encoder stays as it is. As in APRIL-GAN (Chen et al., 2023), which the paper follows, each level's map is trained
to make patches of defects read abnormal, by focal and dice loss on the map of the abnormal class.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from o2n import images
from o2n.data.datasets import data_set
from o2n.data.datasets.base import LabelledCategory, Mask, Sample
from o2n.errors import DataSetError
from o2n.features import patch_features
from o2n.models import ClipModel, LinearMaps
from o2n.text import text_features, text_logits
from o2n.text_map import MapCard

LEARNING_RATE = 1e-3
FOCUS = 2.0  # gamma of the focal loss


def read_auxiliary(folder: Path, name: str) -> list[LabelledCategory]:
    """The data set called `name` as it was published, or, if none is called so, a folder in MVTec layout.

    Raises:
        DataSetError: it is not laid out like that, or a defect has no mask.
    """
    categories = data_set(name.casefold()).load(folder)
    for category in categories:
        if not category.masked:
            raise DataSetError(
                f"{folder}: {category.name} has defects without a mask: give a set in which all have one"
            )
    return categories


def focal_loss(probability: Tensor, mask: Tensor) -> Tensor:
    """-(1 - p_t)^γ log p_t (Lin et al., 2017), mean over all pixels.

    Args: probability: of the abnormal class, float32 in [0, 1]; mask: the same shape, 1 where it is abnormal.
    """
    p_t = torch.where(mask > 0.5, probability, 1 - probability).clamp_min(1e-6)
    return (-((1 - p_t) ** FOCUS) * p_t.log()).mean()


def dice_loss(probability: Tensor, mask: Tensor) -> Tensor:
    """1 - (2 |p · y| + 1) / (|p| + |y| + 1) (Milletari et al., 2016), mean over the pictures.

    Args: as `focal_loss`, float32 (B, H, W).
    """
    shared, both = (probability * mask).sum(dim=(-2, -1)), (probability + mask).sum(dim=(-2, -1))
    return (1 - (2 * shared + 1) / (both + 1)).mean()


def train_text_map(
    clip: ClipModel,
    levels: tuple[int, ...],
    categories: list[LabelledCategory],
    name: str,
    *,
    steps: int,
    batch: int,
    seed: int,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> tuple[LinearMaps, MapCard]:
    """Train the maps on the queries of the auxiliary set called `name`; half of every batch is good, half is not.

    Returns: the maps, and their card. The same arguments give the same maps on one machine.

    Raises:
        PictureError: a picture or a mask that cannot be read.
    """
    device, side = clip.mean.device, clip.resolution
    samples = [(category.object_word, sample) for category in categories for sample in category.queries]
    digests = sorted({images.digest(sample.read())[:16] for _, sample in samples})
    texts = {word: text_features(clip, word).to(device) for word in {word for word, _ in samples}}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        width, embed_dim = clip.model.visual.transformer.width, next(iter(texts.values())).shape[-1]
        maps = LinearMaps(len(levels), width, embed_dim)
    maps.to(device).train()
    optimizer = torch.optim.AdamW(maps.parameters(), lr=LEARNING_RATE)
    losses = []
    for step, drawn in enumerate(_batches(samples, steps, batch, seed), start=1):
        pictures = [images.resize(sample.read(), side) for _, sample in drawn]
        masks = torch.stack([_shrunk(sample.mask() if sample.mask else None, side) for _, sample in drawn]).to(device)
        features = patch_features(clip, pictures, levels).clone()  # what is born in inference mode has no gradient
        text = torch.stack([texts[word] for word, _ in drawn]).clone()
        probability = text_logits(F.normalize(maps(features), dim=-1), text).softmax(dim=-1)[..., 1]
        grid = int(probability.shape[-1] ** 0.5)
        shown = F.interpolate(
            probability.unflatten(-1, (grid, grid)), size=(side, side), mode="bilinear", align_corners=False
        )
        loss = sum(
            (focal_loss(level, masks) + dice_loss(level, masks) for level in shown.unbind(dim=1)), torch.tensor(0.0)
        ) / len(levels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        on_step(step, losses[-1])
    card = MapCard(
        trained_on=name,
        pictures=tuple(digests),
        encoder=clip.digest,
        levels=levels,
        resolution=side,
        steps=steps,
        seed=seed,
        loss=float(np.mean(losses[-max(1, steps // 10) :])),
    )
    return maps.eval().requires_grad_(False), card


def _batches(
    samples: list[tuple[str, Sample]], steps: int, batch: int, seed: int
) -> Iterator[list[tuple[str, Sample]]]:
    rng = np.random.default_rng(seed)
    good = [one for one in samples if not one[1].anomalous]
    bad = [one for one in samples if one[1].anomalous]
    for _ in range(steps):
        yield [part[rng.integers(len(part))] for part in (good, bad) for _ in range(max(1, batch // 2))]


def _shrunk(mask: Mask | None, side: int) -> Tensor:
    """float32 (side, side), 1 wherever there is something of the defect; of a good picture nowhere."""
    if mask is None:
        return torch.zeros(side, side)
    spoilt = Image.fromarray(mask.astype(np.float32))
    return torch.from_numpy(np.asarray(spoilt.resize((side, side), Image.Resampling.BOX)) > 0).float()
