"""Procedural pictures: endless categories of good and of spoilt parts, with masks and exact normal twins.

Three parts, each of its own families and kinds of defects. Models are trained on `TRAINING` alone; choices are made
on `VALIDATION`, which is as strange to them as `EVALUATION`: that is looked at only to report.
"""

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from o2n import prompts
from o2n.data import parts, surfaces  # noqa: F401 - they register their families
from o2n.data.defects import EVALUATION_DEFECTS, TRAINING_DEFECTS, Kind, Scene, spoil
from o2n.data.families import FAMILIES, pose
from o2n.data.fields import Colour, Drawing, Field, drawing, grid, vary

EVALUATION = (
    "leather",
    "parquet",
    "terrazzo",
    "knit",
    "tread",
    "bearing",
    "capsule",
    "connector",
    "gauge",
    "cap",
    "label",
    "zipper",
    "retina",
    "tissue",
)
VALIDATION = ("twill", "marble", "hexagons", "nut", "chip", "pasta", "blister", "brain")
TRAINING = tuple(name for name in FAMILIES if name not in EVALUATION + VALIDATION)


@dataclass(frozen=True)
class Category:
    """One made-up product: a family, and the seed of everything that its pictures have in common."""

    family: str
    seed: int

    @property
    def word(self) -> str:
        return FAMILIES[self.family].word


@dataclass(frozen=True)
class Pictures:
    """N pictures of one category.

    pictures, twins: uint8 (N, S, S, 3); the twin has the same pose, light and noise, and no defect.
    masks: bool (N, S, S), where the defect is. kinds: N names of defects, "" for none.
    """

    category: Category
    pictures: NDArray[np.uint8]
    twins: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    kinds: list[str]

    @property
    def labels(self) -> NDArray[np.bool_]:
        """bool (N,): which pictures have a defect."""
        return np.array([bool(kind) for kind in self.kinds])


def draw(
    category: Category,
    good: int,
    bad: int,
    seed: int,
    *,
    defects: dict[str, Kind] = TRAINING_DEFECTS,
    size: int = 64,
) -> Pictures:
    """`good` flawless pictures of a category, then `bad` spoilt ones; the same arguments give the same pixels."""
    kind, count = FAMILIES[category.family], good + bad
    identity = [zlib.crc32(category.family.encode()), category.seed]
    rng = np.random.default_rng([*identity, seed])
    x, y = pose(kind, count, size, np.random.default_rng([*identity, 1 << 40]), rng)
    inner = int(rng.integers(1 << 62))

    def again(x: Field, y: Field) -> Drawing:
        return kind.draw(x, y, np.random.default_rng(identity), np.random.default_rng(inner))

    def other(x: Field, y: Field) -> Drawing:
        return kind.draw(x, y, np.random.default_rng([*identity, inner]), np.random.default_rng(inner))

    drawn = again(x, y)
    drawn.colour, drawn.ground = (np.clip(a, 0, 1).astype(np.float32) for a in (drawn.colour, drawn.ground))
    scene = Scene(drawn, x, y, again, other)
    names = [""] * good + [str(name) for name in rng.choice(list(defects), bad)]
    spoilt, masks, kinds = spoil(scene, defects, names, rng)
    both = photograph(np.stack([spoilt, drawn.colour]), np.random.default_rng([*identity, 1 << 41]), rng)
    return Pictures(category, both[0], both[1], masks, kinds)


def photograph(colours: Colour, style: Generator, picture: Generator) -> NDArray[np.uint8]:
    """Take pictures with a camera: light, colour cast, focus and noise, the same for all K versions of a picture.

    Args:
        colours: float32 (K, N, S, S, 3) in [0, 1].
        style: how much the light of this category differs. picture: draws for each of the N pictures.
    """
    _, count, size, _, _ = colours.shape
    x, y = grid(size)
    unsteady = style.uniform(0.3, 1.0)
    angle = vary(picture, count, 0, 2 * np.pi)
    slope = unsteady * vary(picture, count, 0, 0.22)
    light = 1 + unsteady * vary(picture, count, -0.2, 0.2) + slope * (x * np.cos(angle) + y * np.sin(angle))
    cast = 1 + unsteady * 0.05 * picture.standard_normal((count, 1, 1, 3), dtype=np.float32)
    out = colours * (light[..., None] * cast)
    soft = vary(picture, count, 0, 0.9 * style.uniform(0.2, 1))[..., None]
    out = out + soft * (_blurred(out) - out)
    grain = vary(picture, count, 0.004, 0.03)[..., None]
    out += grain * picture.standard_normal(out.shape[1:], dtype=np.float32)
    return (np.clip(out, 0, 1) * 255 + np.float32(0.5)).astype(np.uint8)


def spoil_photographs(
    pictures: NDArray[np.uint8], seed: int, defects: dict[str, Kind] = EVALUATION_DEFECTS
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Give real photographs a defect each.

    Args: pictures: uint8 (N, S, S, 3). Returns: the spoilt ones, and their masks bool (N, S, S).
    """
    rng = np.random.default_rng(seed)
    drawn = drawing(pictures.astype(np.float32) / 255)
    x, y = (np.broadcast_to(axis, pictures.shape[:3]) for axis in grid(pictures.shape[1]))
    names = [str(name) for name in rng.choice(list(defects), len(pictures))]
    spoilt, masks, _ = spoil(Scene(drawn, x, y), defects, names, rng)
    return (spoilt * 255 + np.float32(0.5)).astype(np.uint8), masks


def normal_captions(word: str) -> list[str]:
    """All prompts that say a part is good: the ensemble's, and those a category is customised and redrawn with."""
    return [
        *prompts.normal_prompts(word),
        *prompts.personal_prompts(word, 10),
        prompts.instance_prompt(word),
        prompts.class_prompt(word),
    ]


def abnormal_captions(word: str) -> list[str]:
    """All prompts that say a part is not."""
    return prompts.abnormal_prompts(word)


def _blurred(pictures: Colour) -> Colour:
    """A 3 by 3 binomial blur of (K, N, S, S, 3)."""
    for axis in (2, 3):
        ends = np.concatenate([np.take(pictures, [0], axis), pictures, np.take(pictures, [-1], axis)], axis)
        size = pictures.shape[axis]
        left, middle, right = (np.take(ends, range(start, start + size), axis) for start in range(3))
        pictures = (left + 2 * middle + right) / 4
    return pictures
