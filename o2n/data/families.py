"""The families of procedural pictures: surfaces (`surfaces.py`), parts (`parts.py`), and what both are drawn with.

A family draws pictures of a category. What makes the category is drawn from `style` (the same for all its pictures),
what differs from picture to picture from `picture`; x and y are already turned, scaled and shifted.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from o2n.data.fields import Colour, Drawing, Field, drawing, grid, noise, shaded, tint, turn, vary

Draw = Callable[[Field, Field, Generator, Generator], Drawing]


@dataclass(frozen=True)
class Family:
    """A kind of category: what it is called in prompts, how it is drawn, and how much its pose differs.

    angle: degrees to either side; shift: of the half side.
    """

    name: str
    word: str
    draw: Draw
    angle: float
    shift: float


FAMILIES: dict[str, Family] = {}

ZOOM = 0.04  # how much nearer or farther pictures are taken, as a fraction


def family(word: str, angle: float = 4, shift: float = 0.05) -> Callable[[Draw], Draw]:
    """Register a family under its function's name."""

    def register(draw: Draw) -> Draw:
        name = draw.__name__.strip("_")
        FAMILIES[name] = Family(name, word, draw, angle, shift)
        return draw

    return register


def pose(kind: Family, count: int, size: int, style: Generator, picture: Generator) -> tuple[Field, Field]:
    """Coordinates of `count` pictures, each seen from a little elsewhere; how much is the category's own."""
    x, y = grid(size)
    strict = style.uniform(0.3, 1.0)
    angle = np.radians(kind.angle) * (1.0 if kind.angle >= 90 else strict)
    x, y = turn(x[None], y[None], vary(picture, count, -angle, angle))
    scale = 1 + strict * vary(picture, count, -ZOOM, ZOOM)
    shift = strict * kind.shift
    return x * scale + vary(picture, count, -shift, shift), y * scale + vary(picture, count, -shift, shift)


def new_salt(rng: Generator) -> int:
    return int(rng.integers(1 << 30))


def grained(x: Field, picture: Generator, amount: float) -> Field:
    """The grain of a surface, around 1."""
    return 1 + amount * picture.standard_normal(x.shape, dtype=np.float32)


def anew(x: Field, y: Field, picture: Generator, reach: float = 9.0) -> tuple[Field, Field]:
    """Another place of an endless surface for each picture."""
    return x + vary(picture, len(x), -reach, reach), y + vary(picture, len(x), -reach, reach)


def table(
    x: Field, style: Generator, picture: Generator, low: float = 0.1, high: float = 0.9
) -> tuple[Drawing, Colour]:
    """The ground that an object lies on: plain, a little uneven. Returns: the picture, and the ground's own colour."""
    size = x.shape[-1]
    uneven = 1 + style.uniform(0, 0.08) * noise(picture, len(x), size, 3)
    grain = grained(x, picture, style.uniform(0, 0.04))
    colour = tint(style, low, high, 0.4)
    return drawing(shaded(colour, uneven * grain)), colour


def plain(x: Field, colour: Colour) -> Colour:
    return np.broadcast_to(colour, (*x.shape, 3)).astype(np.float32)
