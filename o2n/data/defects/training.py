"""The kinds of defects that models are trained on, and customised with."""

import numpy as np
from numpy.random import Generator

from o2n.data.defects.scene import Kind, Scene, axes, blob, foreign, soft, some_part, stroke
from o2n.data.fields import Colour, cover, disc, grid, mix, noise, vary


def scratch(scene: Scene, rng: Generator) -> Colour:
    line = stroke(scene, rng, 3, 0.7, 0.12, (0.9, 1.7))
    return mix(scene.colour, foreign(scene, rng, 0.3), cover(line) * vary(rng, scene.count, 0.6, 1))


def crack(scene: Scene, rng: Generator) -> Colour:
    line = stroke(scene, rng, 7, 0.6, 0.9, (1.0, 2.0))
    return scene.colour * (1 - cover(line) * vary(rng, scene.count, 0.6, 0.95))[..., None]


def hole(scene: Scene, rng: Generator) -> Colour:
    spot = blob(scene, rng, 0.07, 0.25)
    shade = vary(rng, scene.count, 0.0, 0.35)[..., None]
    inside = mix(scene.colour * shade, scene.drawing.ground, np.full_like(spot, float(rng.integers(2))))
    return mix(scene.colour, inside, cover(spot))


def stain(scene: Scene, rng: Generator) -> Colour:
    spot = blob(scene, rng, 0.12, 0.4)
    return mix(scene.colour, foreign(scene, rng), soft(spot, 0.15) * vary(rng, scene.count, 0.35, 0.85))


def contamination(scene: Scene, rng: Generator) -> Colour:
    colour, spoilt = foreign(scene, rng, 0.3), scene.colour
    for _ in range(int(rng.integers(1, 5))):
        spoilt = mix(spoilt, colour, cover(blob(scene, rng, 0.04, 0.1)))
    return spoilt


def discolouration(scene: Scene, rng: Generator) -> Colour:
    spot = blob(scene, rng, 0.2, 0.5)
    hue = rng.uniform(-0.35, 0.35, (scene.count, 1, 1, 3)).astype(np.float32)
    return scene.colour + hue * soft(spot, 0.2)[..., None]


def cut_paste(scene: Scene, rng: Generator) -> Colour:
    x, y = axes(scene, rng)
    patch = np.maximum(np.abs(x) - vary(rng, scene.count, 0.1, 0.35), np.abs(y) - vary(rng, scene.count, 0.1, 0.35))
    moved = np.roll(scene.colour, rng.integers(12, scene.size - 12, 2).tolist(), axis=(1, 2))
    if rng.uniform() < 0.6:
        moved = np.rot90(moved, int(rng.integers(1, 4)), axes=(1, 2))
    return mix(scene.colour, moved * vary(rng, scene.count, 0.75, 1.25)[..., None], cover(patch))


def missing_part(scene: Scene, rng: Generator) -> Colour:
    part = some_part(scene, rng)
    return np.where(part[..., None], scene.drawing.ground, scene.colour)


def broken_edge(scene: Scene, rng: Generator) -> Colour:
    """A bite out of a part, where it borders on something else."""
    x, y = grid(scene.size)
    bite = np.full((scene.count, scene.size, scene.size), 9.0, np.float32)
    for row, parts in enumerate(scene.drawing.parts):
        edge = np.argwhere((parts[1:-1, 1:-1] > 0) & ((parts[1:-1, 2:] == 0) | (parts[2:, 1:-1] == 0)))
        if len(edge):
            i, j = edge[rng.integers(len(edge))] + 1
            bite[row] = disc(x, y, float(rng.uniform(0.1, 0.3)), x[i, j], y[i, j])
    ragged = bite + 0.05 * noise(rng, scene.count, scene.size, 14)
    return mix(scene.colour, scene.drawing.ground, cover(ragged))


def bent(scene: Scene, rng: Generator) -> Colour:
    if scene.again is None:
        return scene.colour
    u, v = axes(scene, rng)
    reach = np.exp(-(u**2 + v**2) / vary(rng, scene.count, 0.05, 0.25))
    push = vary(rng, scene.count, 0.12, 0.35) * reach
    angle = vary(rng, scene.count, 0, 2 * np.pi)
    return scene.again(scene.x + push * np.cos(angle), scene.y + push * np.sin(angle)).colour


def extra_part(scene: Scene, rng: Generator) -> Colour:
    part = some_part(scene, rng)
    shift = rng.integers(8, scene.size - 8, 2).tolist()
    moved, where = np.roll(scene.colour, shift, axis=(1, 2)), np.roll(part, shift, axis=(1, 2))
    return np.where(where[..., None], moved, scene.colour)


def swapped_part(scene: Scene, rng: Generator) -> Colour:
    """A part, or a spot of a surface, as another category of the same family has it."""
    if scene.other is None:
        return scene.colour
    where = (
        some_part(scene, rng)
        | (blob(scene, rng, 0.15, 0.35) < 0) & (scene.drawing.parts.max(axis=(1, 2)) == 0)[:, None, None]
    )
    return np.where(where[..., None], scene.other(scene.x, scene.y).colour, scene.colour)


TRAINING_DEFECTS: dict[str, Kind] = {
    kind.__name__: kind
    for kind in (
        scratch,
        crack,
        hole,
        stain,
        contamination,
        discolouration,
        cut_paste,
        missing_part,
        broken_edge,
        bent,
        extra_part,
        swapped_part,
    )
}
