"""What a kind of defect is given, and what kinds are drawn with: places, spots, strokes, parts."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from o2n.data.fields import Colour, Drawing, Field, contrast, grid, noise, segment, turn, vary


@dataclass(frozen=True)
class Scene:
    """Flawless pictures: the drawing, the coordinates it was drawn at, and how to draw it elsewhere or otherwise.

    again(x, y): the same pictures at other coordinates. other(x, y): those of another category of the family.
    Both are None for photographs, of which nothing but the colour is known.
    """

    drawing: Drawing
    x: Field
    y: Field
    again: Callable[[Field, Field], Drawing] | None = None
    other: Callable[[Field, Field], Drawing] | None = None

    @property
    def colour(self) -> Colour:
        return self.drawing.colour

    @property
    def count(self) -> int:
        return len(self.drawing.colour)

    @property
    def size(self) -> int:
        return int(self.drawing.colour.shape[1])


Kind = Callable[[Scene, Generator], Colour]


def around(scene: Scene, rng: Generator) -> tuple[Field, Field]:
    """Picture coordinates around a random place, which lies on a part if there is one."""
    x, y = grid(scene.size)
    places = np.empty((2, scene.count, 1, 1), np.float32)
    for row, parts in enumerate(scene.drawing.parts):
        inside = np.argwhere(parts[3:-3, 3:-3] > 0)
        if len(inside) > 30 and rng.uniform() < 0.85:
            i, j = inside[rng.integers(len(inside))] + 3
            places[:, row, 0, 0] = x[i, j], y[i, j]
        else:
            places[:, row, 0, 0] = rng.uniform(-0.75, 0.75, 2)
    return x - places[0], y - places[1]


def axes(scene: Scene, rng: Generator) -> tuple[Field, Field]:
    """The same, turned at random."""
    x, y = around(scene, rng)
    return turn(x, y, vary(rng, scene.count, 0, 2 * np.pi))


def blob(scene: Scene, rng: Generator, low: float, high: float) -> Field:
    """Signed distance to a ragged spot of radius `low` to `high`."""
    x, y = axes(scene, rng)
    ragged = 1 + 0.35 * noise(rng, scene.count, scene.size, 7)
    return np.hypot(x, y * vary(rng, scene.count, 1, 2.2)) - vary(rng, scene.count, low, high) * np.clip(
        ragged, 0.4, 1.6
    )


def soft(distance: Field, width: float) -> Field:
    """Like cover, its edge `width` soft."""
    return np.clip(0.5 - distance / np.float32(width), 0, 1)


def foreign(scene: Scene, rng: Generator, least: float = 0.25) -> Colour:
    """For each picture a colour that stands off from its mean, (N, 1, 1, 3)."""
    means = scene.colour.mean(axis=(1, 2))
    return np.stack([contrast(rng, mean, least) for mean in means])[:, None, None]


def stroke(scene: Scene, rng: Generator, steps: int, length: float, sway: float, width: tuple[float, float]) -> Field:
    """Signed distance to a broken line of `steps` pieces through a random place."""
    x, y = axes(scene, rng)
    n = scene.count
    total = np.full(x.shape, 9.0, np.float32)
    thick = vary(rng, n, *width) * (2 / scene.size)
    px, py = vary(rng, n, -length, 0), vary(rng, n, -0.05, 0.05)
    heading = vary(rng, n, -0.3, 0.3)
    piece = vary(rng, n, 0.5, 1.0) * (2 * length / steps)
    for _ in range(steps):
        heading = heading + vary(rng, n, -sway, sway)
        qx, qy = px + piece * np.cos(heading), py + piece * np.sin(heading)
        total = np.minimum(total, segment(x, y, px, py, qx, qy, thick))
        px, py = qx, qy
    return total


def some_part(scene: Scene, rng: Generator) -> np.ndarray:
    """Where one part of each picture is, bool (N, S, S); nowhere if it has none of fair size."""
    where = np.zeros(scene.drawing.parts.shape, bool)
    for row, parts in enumerate(scene.drawing.parts):
        numbers, areas = np.unique(parts, return_counts=True)
        fair = numbers[(numbers > 0) & (areas >= 12) & (areas < parts.size * 0.4)]
        if len(fair):
            where[row] = parts == rng.choice(fair)
    return where
