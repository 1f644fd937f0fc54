"""Kinds of defects that training never sees and no setting is chosen by: looked at only to report."""

import numpy as np
from numpy.random import Generator

from o2n.data.defects.scene import Kind, Scene, axes, blob, foreign, soft, some_part
from o2n.data.fields import Colour, cover, mix, noise, vary


def fibre(scene: Scene, rng: Generator) -> Colour:
    """A hair or a thread lying on the part: a thin curl of even colour with a faint shadow."""
    x, y = axes(scene, rng)
    n = scene.count
    curl = vary(rng, n, 0.08, 0.25) * np.sin(x * vary(rng, n, 4, 9) + vary(rng, n, 0, 6))
    thread = np.maximum(
        np.abs(y - curl) - vary(rng, n, 0.6, 1.1) * (2 / scene.size), np.abs(x) - vary(rng, n, 0.25, 0.6)
    )
    shadow = scene.colour * (1 - 0.25 * cover(np.roll(thread, 1, axis=1)))[..., None]
    return mix(shadow, foreign(scene, rng, 0.3), cover(thread))


def dent(scene: Scene, rng: Generator) -> Colour:
    """A hollow: its one side in the light, its other in the shade."""
    x, y = axes(scene, rng)
    n = scene.count
    r2 = (x**2 + y**2) / vary(rng, n, 0.12, 0.3) ** 2
    slope = x / vary(rng, n, 0.12, 0.3) * np.exp(-r2)
    return scene.colour * (1 + vary(rng, n, 0.7, 1.3) * slope)[..., None]


def pitting(scene: Scene, rng: Generator) -> Colour:
    """A region eaten by corrosion: many small dark pits."""
    region = soft(blob(scene, rng, 0.2, 0.4), 0.1)
    pits = np.clip(noise(rng, scene.count, scene.size, 26) * 1.5 - 0.4, 0, 1)
    rust = np.array([0.35, 0.2, 0.1], np.float32) * np.float32(rng.uniform(0.3, 1.2))
    return mix(scene.colour, rust, region * pits * vary(rng, scene.count, 0.6, 1))


def smear(scene: Scene, rng: Generator) -> Colour:
    """A region wiped while wet: blurred along one direction."""
    region = soft(blob(scene, rng, 0.25, 0.45), 0.08)
    axis, reach = int(rng.integers(1, 3)), int(rng.integers(4, 9))
    wiped = np.mean([np.roll(scene.colour, shift, axis=axis) for shift in range(-reach, reach + 1)], axis=0)
    return mix(scene.colour, wiped.astype(np.float32), region)


def bubble(scene: Scene, rng: Generator) -> Colour:
    """A blister in the surface: a bright rim on one side, a dark one on the other, a gleam."""
    x, y = axes(scene, rng)
    n = scene.count
    radius = vary(rng, n, 0.1, 0.24)
    rim = np.exp(-(((np.hypot(x, y) - radius) / (0.25 * radius)) ** 2))
    light = 1 + vary(rng, n, 0.4, 0.8) * rim * x / radius
    gleam = np.exp(-((x - 0.3 * radius) ** 2 + y**2) / (0.3 * radius) ** 2)
    return scene.colour * light[..., None] + (0.4 * gleam)[..., None]


def burn(scene: Scene, rng: Generator) -> Colour:
    """A scorched spot: a black core that fades through brown."""
    x, y = axes(scene, rng)
    r = np.hypot(x, y) / vary(rng, scene.count, 0.12, 0.35) + 0.15 * noise(rng, scene.count, scene.size, 9)
    scorched = mix(scene.colour, np.array([0.3, 0.17, 0.07], np.float32), np.clip(1.6 - r, 0, 0.8))
    return mix(scorched, np.full(3, 0.03, np.float32), np.clip(1.2 - 1.5 * r, 0, 0.9))


def crease(scene: Scene, rng: Generator) -> Colour:
    """A fold: a long line, light on one side of it and dark on the other."""
    x, y = axes(scene, rng)
    n = scene.count
    width = vary(rng, n, 0.03, 0.07)
    ridge = y / width * np.exp(-((y / width) ** 2)) * cover(np.abs(x) - vary(rng, n, 0.4, 0.9))
    return scene.colour * (1 + vary(rng, n, 0.5, 1.1) * ridge)[..., None]


def displaced_part(scene: Scene, rng: Generator) -> Colour:
    """A part that sits a little off its place; of a surface, a region that does."""
    part = some_part(scene, rng)
    bare = (scene.drawing.parts.max(axis=(1, 2)) == 0)[:, None, None]
    part = part | bare & (blob(scene, rng, 0.2, 0.35) < 0)
    shift = (rng.integers(3, 7, 2) * rng.choice([-1, 1], 2)).tolist()
    left = np.where(part[..., None], scene.drawing.ground, scene.colour)
    return np.where(np.roll(part, shift, axis=(1, 2))[..., None], np.roll(scene.colour, shift, axis=(1, 2)), left)


def tape(scene: Scene, rng: Generator) -> Colour:
    """A strip of half transparent tape left on the part."""
    x, y = axes(scene, rng)
    strip = np.maximum(np.abs(x) - vary(rng, scene.count, 0.2, 0.5), np.abs(y) - vary(rng, scene.count, 0.08, 0.18))
    return mix(scene.colour, foreign(scene, rng, 0.15), cover(strip) * vary(rng, scene.count, 0.4, 0.8))


def fade(scene: Scene, rng: Generator) -> Colour:
    """A region bleached: its colour and its pattern gone pale."""
    region = soft(blob(scene, rng, 0.25, 0.5), 0.12)
    mean = scene.colour.mean(axis=(1, 2), keepdims=True)
    pale = mean + (scene.colour - mean) * 0.35 + np.where(mean.mean(axis=-1, keepdims=True) > 0.6, -0.2, 0.2)
    return mix(scene.colour, pale.astype(np.float32), region * vary(rng, scene.count, 0.6, 1))


EVALUATION_DEFECTS: dict[str, Kind] = {
    kind.__name__: kind for kind in (fibre, dent, pitting, smear, bubble, burn, crease, displaced_part, tape, fade)
}
