"""An auxiliary set with masks -> one linear map per level into the space of the text features (F' of eq. 6).

The encoder stays as it is. As in APRIL-GAN (Chen et al., 2023), which the paper follows, each level's map is trained
to make patches of defects read abnormal, by focal and dice loss on the map of the abnormal class.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from o2n import images
from o2n.errors import PictureError
from o2n.features import patch_features
from o2n.models import ClipModel, LinearMaps
from o2n.text import text_features, text_logits
from o2n.text_map import MapCard

LEARNING_RATE = 1e-3
FOCUS = 2.0  # gamma of the focal loss


@dataclass(frozen=True)
class Sample:
    """A picture of the auxiliary set, and where it is spoilt: a file, or None for a good one."""

    object_word: str
    picture: Path
    mask: Path | None


def read_auxiliary(folder: Path) -> list[Sample]:
    """The test pictures of a folder in MVTec layout: NAME/test/KIND/*.png, the masks of those that are not `good` in
    NAME/ground_truth/KIND/*_mask.png.

    Raises:
        PictureError: there are none, or a mask is missing.
    """
    samples = []
    for kind in sorted(folder.glob("*/test/*/")):
        name = kind.parent.parent.name
        for picture in images.find(kind):
            mask = None if kind.name == "good" else _mask_of(picture)
            samples.append(Sample(name.replace("_", " "), picture, mask))
    if not any(sample.mask for sample in samples) or all(sample.mask for sample in samples):
        raise PictureError(
            f"{folder} is no auxiliary set: give a folder in MVTec layout with good and bad pictures, "
            "NAME/test/KIND/*.png, and NAME/ground_truth/KIND/*_mask.png"
        )
    return samples


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
    samples: list[Sample],
    name: str,
    *,
    steps: int,
    batch: int,
    seed: int,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> tuple[LinearMaps, MapCard]:
    """Train the maps on `samples`, the auxiliary set called `name`; half of every batch is good, half is not.

    Returns: the maps, and their card. The same arguments give the same maps on one machine.

    Raises:
        PictureError: a picture or a mask that cannot be read.
    """
    device, side = clip.mean.device, clip.resolution
    digests = sorted({images.digest(images.read(sample.picture))[:16] for sample in samples})
    texts = {word: text_features(clip, word).to(device) for word in {sample.object_word for sample in samples}}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        width, embed_dim = clip.model.visual.transformer.width, next(iter(texts.values())).shape[-1]
        maps = LinearMaps(len(levels), width, embed_dim)
    maps.to(device).train()
    optimizer = torch.optim.AdamW(maps.parameters(), lr=LEARNING_RATE)
    losses = []
    for step, drawn in enumerate(_batches(samples, steps, batch, seed), start=1):
        pictures = [images.resize(images.read(sample.picture), side) for sample in drawn]
        masks = torch.stack([_read_mask(sample.mask, side) for sample in drawn]).to(device)
        features = patch_features(clip, pictures, levels).clone()  # what is born in inference mode has no gradient
        text = torch.stack([texts[sample.object_word] for sample in drawn]).clone()
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


def _batches(samples: list[Sample], steps: int, batch: int, seed: int) -> Iterator[list[Sample]]:
    rng = np.random.default_rng(seed)
    good = [sample for sample in samples if sample.mask is None]
    bad = [sample for sample in samples if sample.mask is not None]
    for _ in range(steps):
        yield [part[rng.integers(len(part))] for part in (good, bad) for _ in range(max(1, batch // 2))]


def _mask_of(picture: Path) -> Path:
    name, kind = picture.parent.parent.parent, picture.parent.name
    mask = name / "ground_truth" / kind / f"{picture.stem}_mask.png"
    if not mask.is_file():
        raise PictureError(f"{picture} has no mask: {mask} is missing")
    return mask


def _read_mask(file: Path | None, side: int) -> Tensor:
    """float32 (side, side), 1 where it is spoilt; of a good picture nowhere."""
    if file is None:
        return torch.zeros(side, side)
    # Before it is shrunk: numbers of classes, or a 1, would be rounded away.
    spoilt = Image.fromarray(np.asarray(images.read(file).any(axis=-1), np.float32))
    return torch.from_numpy(np.asarray(spoilt.resize((side, side), Image.Resampling.BOX)) > 0).float()
