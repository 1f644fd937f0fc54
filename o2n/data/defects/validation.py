"""Kinds of defects that training never sees: settings are chosen by them."""

import numpy as np
from numpy.random import Generator

from o2n.data.defects.scene import Kind, Scene, around, axes, blob, foreign, soft
from o2n.data.fields import Colour, Field, cover, mix, turn, vary


def frayed(scene: Scene, rng: Generator) -> Colour:
    """A region gone to crumbs: its pixels have changed places with others near by."""
    region = cover(blob(scene, rng, 0.12, 0.3))
    shape, reach = region.shape, 2 * int(rng.integers(4, 9)) / scene.size
    dx, dy = rng.uniform(-reach, reach, (2, *shape)).astype(np.float32)
    return mix(scene.colour, _seen_at(scene, dx, dy), region)


def tarnish(scene: Scene, rng: Generator) -> Colour:
    """A region whose dark is bright and whose bright is dark."""
    region = soft(blob(scene, rng, 0.12, 0.35), 0.06)
    return mix(scene.colour, 1 - scene.colour, region * vary(rng, scene.count, 0.5, 1))


def twist(scene: Scene, rng: Generator) -> Colour:
    """A region wrung about its middle."""
    x, y = around(scene, rng)
    angle = vary(rng, scene.count, 1.5, 3.5) * np.exp(-(x**2 + y**2) / vary(rng, scene.count, 0.2, 0.4) ** 2)
    return _turned(scene, x, y, angle)


def scuff(scene: Scene, rng: Generator) -> Colour:
    """A region rubbed against something: fine parallel strokes."""
    x, y = axes(scene, rng)
    patch = np.maximum(np.abs(x) - vary(rng, scene.count, 0.15, 0.4), np.abs(y) - vary(rng, scene.count, 0.15, 0.4))
    strokes = np.clip(0.5 + 1.5 * np.sin(x * vary(rng, scene.count, 0.9, 1.6) * scene.size / 2), 0, 1)
    worn = strokes * cover(patch) * vary(rng, scene.count, 0.4, 0.9)
    return mix(scene.colour, foreign(scene, rng), worn)


def turned_piece(scene: Scene, rng: Generator) -> Colour:
    """A round piece set in the wrong way round, a little darker than the rest."""
    x, y = around(scene, rng)
    piece = cover(np.hypot(x, y) - vary(rng, scene.count, 0.15, 0.35))
    turned = _turned(scene, x, y, np.full_like(x, np.pi)) * vary(rng, scene.count, 0.7, 0.95)[..., None]
    return mix(scene.colour, turned, piece)


def ghost(scene: Scene, rng: Generator) -> Colour:
    """A region printed twice, the second time beside the first."""
    region = soft(blob(scene, rng, 0.2, 0.4), 0.08)
    shift = (rng.integers(3, 9, 2) * rng.choice([-1, 1], 2)).tolist()
    darker = np.minimum(scene.colour, np.roll(scene.colour, shift, axis=(1, 2)))
    return mix(scene.colour, darker * vary(rng, scene.count, 0.6, 0.9)[..., None], region)


def _turned(scene: Scene, x: Field, y: Field, angle: Field) -> Colour:
    """The colours, turned by `angle` about where x and y are 0."""
    u, v = turn(x, y, angle)
    return _seen_at(scene, u - x, v - y)


def _seen_at(scene: Scene, dx: Field, dy: Field) -> Colour:
    """The colours dx to the right of every pixel and dy below it, in units of the grid; beyond the border, its own."""
    last, half = scene.size - 1, scene.size / 2
    rows, columns = np.indices((scene.size, scene.size))
    rows = np.clip(np.rint(rows + dy * half), 0, last).astype(int)
    columns = np.clip(np.rint(columns + dx * half), 0, last).astype(int)
    return scene.colour[np.arange(scene.count)[:, None, None], rows, columns]


VALIDATION_DEFECTS: dict[str, Kind] = {
    kind.__name__: kind for kind in (frayed, tarnish, twist, scuff, turned_piece, ghost)
}
