"""Families of parts: fasteners, machine parts, electronics, packages, prints, food, scans."""

import itertools

import numpy as np
from numpy.random import Generator

from o2n.data.families import anew, family, new_salt, plain, table
from o2n.data.fields import (
    Colour,
    Drawing,
    Field,
    box,
    cells,
    chance,
    contrast,
    cover,
    disc,
    drawing,
    fbm,
    mix,
    noise,
    polygon,
    ring,
    segment,
    shaded,
    tint,
    turn,
    vary,
    worley,
)


@family("hex nut", angle=180)
def nut(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene, ground = table(x, style, picture)
    metal = contrast(style, ground, 0.25)
    size = style.uniform(0.5, 0.75)
    sector = np.cos(3 * np.arctan2(y, x)) * 0.12
    scene.paint(polygon(x, y, size, 6), shaded(metal, 0.85 + sector), 1)
    scene.paint(disc(x, y, size * 0.92), shaded(metal, 1.05 + 0.1 * x))
    hole = size * style.uniform(0.4, 0.62)
    scene.paint(disc(x, y, hole), shaded(metal, 0.55 + 0.2 * np.sin(np.hypot(x, y) * 70)))
    scene.paint(disc(x, y, hole * 0.86), scene.ground)
    return scene


@family("gear", angle=180)
def gear(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene, ground = table(x, style, picture)
    metal = contrast(style, ground, 0.25)
    count, root = int(style.integers(8, 18)), style.uniform(0.5, 0.65)
    phase = np.arctan2(y, x) * (count / (2 * np.pi))
    radius = np.hypot(x, y)
    tooth = np.clip((np.cos(phase * 2 * np.pi) + style.uniform(-0.2, 0.3)) * 4, 0, 1)
    number = (2 + np.round(phase).astype(np.int32) % count).astype(np.int16)
    light = 0.95 + 0.15 * x
    scene.paint(radius - root - 0.16 * tooth, shaded(metal, light), np.where(radius > root, number, 1).astype(np.int16))
    for inner in range(int(style.integers(0, 2)) * int(style.integers(3, 7))):
        a = 2 * np.pi * inner / 6
        scene.paint(disc(x, y, 0.09, 0.34 * np.cos(a), 0.34 * np.sin(a)), scene.ground)
    scene.paint(ring(x, y, root * 0.8, 0.04), shaded(metal, light * 0.8))
    scene.paint(disc(x, y, style.uniform(0.12, 0.2)), scene.ground)
    return scene


@family("screw", angle=12)
def screw(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene, ground = table(x, style, picture)
    x, y = turn(x, y, style.uniform(0, 3))
    metal = contrast(style, ground, 0.25)
    width, pitch = style.uniform(0.13, 0.22), style.uniform(40, 70)
    round_ = 0.7 + 0.4 * np.cos(np.clip(x / width, -1, 1) * 1.4)
    thread = 0.03 * np.sin(y * pitch + x * 4)
    taper = np.minimum(1, (0.85 - y) * 4)
    scene.paint(
        box(x / np.maximum(taper, 0.2) + 0 * y, y - 0.15, width + thread, 0.7),
        shaded(metal, round_ * (1 + thread * 9)),
        1,
    )
    head = style.uniform(0.26, 0.4)
    scene.paint(box(x, y + 0.62, head, 0.14, 0.08), shaded(metal, 0.8 + 0.3 * np.cos(x / head * 1.4)), 2)
    scene.paint(box(x, y + 0.74, head * 0.25, 0.05), shaded(metal, 0.4 + 0 * x))
    return scene


@family("washer", angle=180)
def washer(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene, ground = table(x, style, picture)
    metal = contrast(style, ground, 0.25)
    radius, width = style.uniform(0.4, 0.6), style.uniform(0.2, 0.4)
    sheen = 1 + 0.18 * np.cos(2 * np.arctan2(y, x) + style.uniform(0, 3))
    scene.paint(ring(x, y, radius, width), shaded(metal, sheen), 1)
    scene.paint(ring(x, y, radius, width * style.uniform(0.05, 0.3)), shaded(metal, sheen * 0.85))
    return scene


@family("capsule", angle=15)
def capsule(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene, ground = table(x, style, picture)
    x, y = turn(x, y, style.uniform(0, 3))
    width = style.uniform(0.25, 0.36)
    light = 0.7 + 0.4 * np.cos(y / width * 1.2) + 0.25 * np.exp(-(((y + width * 0.4) / 0.05) ** 2))
    halves = [contrast(style, ground, 0.15) for _ in range(2)]
    body = box(x, y, 0.78, width, width)
    split = style.uniform(-0.15, 0.15)
    scene.paint(np.maximum(body, x - split), shaded(halves[0], light), 1)
    scene.paint(np.maximum(body, split - x), shaded(halves[1], light), 2)
    scene.paint(np.maximum(body, np.abs(x - split) - 0.02), shaded(halves[0], light * 0.7))
    letters(scene, x - split - 0.32, y, style, 0.2, contrast(style, halves[1], 0.4))
    return scene


@family("pill", angle=180)
def pill(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene, ground = table(x, style, picture)
    body = contrast(style, ground, 0.2)
    radius, oval = style.uniform(0.5, 0.7), style.uniform(0.7, 1.0)
    d = disc(x, y / oval, radius)
    speckle = 1 + style.uniform(0, 0.12) * np.maximum(0, noise(picture, len(x), x.shape[-1], 40))
    scene.paint(d, shaded(body, np.clip(0.75 - d * 1.2, 0.6, 1.05) * speckle), 1)
    if style.uniform() < 0.6:
        scene.emboss(np.maximum(np.abs(x) - 0.025, d + 0.05), 0.3)
    else:
        letters(scene, x, y, style, 0.36, body * 0.6)
    return scene


@family("bottle cap", angle=180)
def cap(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene, ground = table(x, style, picture)
    body = contrast(style, ground, 0.2)
    count = int(style.integers(14, 26))
    angle = np.arctan2(y, x)
    flute = 0.04 * np.cos(angle * count)
    scene.paint(np.hypot(x, y) - 0.72 - flute, shaded(body, 0.75 + 4 * flute), 1)
    scene.paint(disc(x, y, 0.6), shaded(body, 1 + 0.12 * x - 0.1 * y))
    accent = contrast(style, body, 0.25)
    scene.paint(ring(x, y, style.uniform(0.42, 0.52), 0.06), accent)
    letters(scene, x, y, style, 0.34, accent, 2)
    return scene


@family("bottle", angle=180)
def bottle(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene, ground = table(x, style, picture)
    glass = contrast(style, ground, 0.15)
    angle = np.arctan2(y, x)
    for radius, width in ((0.72, 0.16), (0.55, 0.12), (0.4, 0.1)):
        light = style.uniform(0.5, 1.2) + 0.3 * np.cos(angle * int(style.integers(1, 4)) + style.uniform(0, 6))
        scene.paint(disc(x, y, radius + width / 2), shaded(glass, light), 1 if radius == 0.72 else None)
    scene.paint(disc(x, y, 0.34), tint(style, 0.01, 0.2))
    return scene


@family("connector", angle=3)
def connector(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene, ground = table(x, style, picture)
    x, y = turn(x, y, float(style.integers(2)) * np.pi / 2)
    housing = contrast(style, ground, 0.2)
    pin = contrast(style, housing, 0.3)
    scene.paint(box(x, y, 0.82, 0.42, 0.06), shaded(housing, 1 + 0.1 * y), 1)
    scene.paint(box(x, y, 0.74, 0.32, 0.04), shaded(housing, 0.75 + 0 * x))
    columns, rows = int(style.integers(4, 8)), int(style.integers(1, 3))
    round_ = style.uniform() < 0.5
    for row in range(rows):
        for column in range(columns):
            u = x - (column - (columns - 1) / 2) * 1.4 / columns
            v = y - (row - (rows - 1) / 2) * 0.32
            d = disc(u, v, 0.07) if round_ else box(u, v, 0.05, 0.1)
            scene.paint(d, shaded(pin, 1 - 2 * v), 2 + row * columns + column)
    return scene


@family("circuit board", angle=2, shift=0.04)
def board(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    lacquer = tint(style, 0.15, 0.4, 0.9)
    scene = drawing(shaded(lacquer, 1 + 0.03 * fbm(picture, len(x), x.shape[-1], 5)))
    trace = lacquer * 1.5
    for _ in range(int(style.integers(4, 9))):
        a, b, c, d = style.uniform(-1, 1, 4).tolist()
        scene.paint(np.minimum(segment(x, y, a, b, a, d, 0.04), segment(x, y, a, d, c, d, 0.04)), trace)
        scene.paint(disc(x, y, 0.05, c, d), tint(style, 0.7, 0.9, 0.5))
    scene.ground = scene.colour.copy()
    for number in range(int(style.integers(5, 10))):
        u, v = x - style.uniform(-0.8, 0.8), y - style.uniform(-0.8, 0.8)
        kind, long = style.integers(3), style.uniform(0.12, 0.3)
        colour = contrast(style, lacquer, 0.15)
        if kind == 0:
            scene.paint(disc(u, v, long * 0.7), shaded(colour, 1 + u), number + 1)
            scene.paint(disc(u, v, long * 0.4), shaded(colour, 0.8 - u))
        else:
            w, h = (long, long * 0.5) if kind == 1 else (long * 0.5, long)
            scene.paint(box(u, v, w, h), colour, number + 1)
            ends = np.maximum(box(u, v, w, h), 0.6 * max(w, h) - (np.abs(u) if w > h else np.abs(v)))
            scene.paint(ends, np.float32(0.8) * np.ones(3, np.float32))
    return scene


@family("microchip", angle=3)
def chip(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene, _ = table(x, style, picture, 0.3, 0.9)
    x, y = turn(x, y, float(style.integers(2)) * np.pi / 2)
    count, leg = int(style.integers(4, 8)), tint(style, 0.6, 0.95, 0.2)
    width = style.uniform(0.35, 0.5)
    for number in range(count):
        v = y - (number - (count - 1) / 2) * 1.4 / count
        for side in (-1, 1):
            scene.paint(box(x - side * (width + 0.12), v, 0.16, 0.045), leg, 2 + 2 * number + (side > 0))
    body = tint(style, 0.05, 0.25, 0.3)
    scene.paint(box(x, y, width, 0.8, 0.04), shaded(body, 1 + 0.15 * y), 1)
    scene.paint(disc(x, y, 0.07, -width * 0.6, -0.65), body * 0.4)
    letters(scene, x, y, style, 0.3, contrast(style, body, 0.3), 2)
    return scene


@family("blister pack", angle=3)
def blister(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    foil = 1 + 0.06 * noise(picture, len(x), x.shape[-1], 14)
    ground = tint(style, 0.5, 0.85, 0.2)
    scene = drawing(shaded(ground, foil))
    columns, rows = int(style.integers(2, 4)), int(style.integers(2, 5))
    colour, radius = contrast(style, ground, 0.2), style.uniform(0.3, 0.42)
    for row in range(rows):
        for column in range(columns):
            u = x - (column - (columns - 1) / 2) * 1.8 / columns
            v = y - (row - (rows - 1) / 2) * 1.8 / rows
            r = radius * 1.8 / max(columns, rows)
            scene.emboss(disc(u, v, r * 1.25), 0.2)
            scene.paint(disc(u, v, r), shaded(colour, 1 - 0.9 * u - 0.9 * v), 1 + row * columns + column)
    return scene


@family("cable", angle=180)
def cable(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene, ground = table(x, style, picture)
    jacket = contrast(style, ground, 0.2)
    scene.paint(disc(x, y, 0.8), shaded(jacket, 0.9 + 0.2 * x), 1)
    count = int(style.integers(2, 5))
    copper = tint(style, 0.5, 0.75, 0.9)
    strands = 0.8 + 0.35 * np.sin(x * 60) * np.sin(y * 60)
    for number in range(count):
        a = 2 * np.pi * number / count
        u, v = x - 0.4 * np.cos(a), y - 0.4 * np.sin(a)
        scene.paint(disc(u, v, 0.3), tint(style, 0.2, 0.8, 0.9), 2 + number)
        scene.paint(disc(u, v, 0.18), shaded(copper, strands))
    return scene


@family("toothbrush", angle=3)
def brush(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene, ground = table(x, style, picture)
    handle = contrast(style, ground, 0.2)
    scene.paint(box(x, y, 0.5, 0.85, 0.4), shaded(handle, 1 + 0.1 * x), 1)
    colours = [contrast(style, handle, 0.2) for _ in range(2)]
    rows, columns = int(style.integers(4, 7)), int(style.integers(2, 5))
    bristle = 1 + 0.2 * noise(picture, len(x), x.shape[-1], 60)
    for row in range(rows):
        for column in range(columns):
            u = x - (column - (columns - 1) / 2) * 0.8 / columns
            v = y - (row - (rows - 1) / 2) * 1.3 / rows
            scene.paint(
                disc(u, v, 0.36 / max(columns, rows * 0.6)),
                shaded(colours[row % 2], bristle),
                2 + row * columns + column,
            )
    return scene


@family("zipper", angle=3)
def zipper(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    cloth = 1 + 0.06 * np.sin(x * 50) * np.sin(y * 50) + 0.03 * noise(picture, len(x), x.shape[-1], 50)
    ground = tint(style, 0.1, 0.8, 0.6)
    scene = drawing(shaded(ground, cloth))
    metal = contrast(style, ground, 0.25)
    y = y + vary(picture, len(x), -0.3, 0.3)
    period, width = style.uniform(0.2, 0.32), style.uniform(0.24, 0.36)
    for side in (-1, 1):
        j, v = cells(y + (side > 0) * period / 2, period)
        tooth = box(x + side * width * 0.55, v * period, width, period * 0.24, 0.03)
        scene.paint(tooth, shaded(metal, 1 - v), (1 + (j * 2 + (side > 0)) % 97).astype(np.int16))
    return scene


@family("coin", angle=180)
def coin(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene, ground = table(x, style, picture)
    metal = contrast(style, ground, 0.2)
    scene.paint(disc(x, y, 0.76), shaded(metal, 0.95 + 0.15 * x), 1)
    scene.paint(ring(x, y, 0.7, 0.06), shaded(metal, 1.15 - 0.1 * y))
    count = int(style.integers(16, 40))
    dots = np.cos(np.arctan2(y, x) * count)
    scene.paint(np.maximum(ring(x, y, 0.6, 0.06), -dots * 0.03), shaded(metal, 0.7 + 0 * x))
    letters(scene, x, y, style, 0.42, metal * np.float32(style.choice([0.65, 1.3])), int(style.integers(1, 3)))
    return scene


@family("button", angle=180)
def button(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene, ground = table(x, style, picture)
    body = contrast(style, ground, 0.2)
    r = np.hypot(x, y)
    scene.paint(disc(x, y, 0.74), shaded(body, 0.85 + 0.25 * np.cos(r * style.uniform(5, 12)) + 0.1 * x), 1)
    count = int(style.integers(2, 5))
    for number in range(count):
        a = 2 * np.pi * number / count
        scene.paint(disc(x, y, 0.1, 0.22 * np.cos(a), 0.22 * np.sin(a)), scene.ground * 0.6, 2 + number)
    return scene


@family("key", angle=8)
def key(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene, ground = table(x, style, picture)
    x, y = turn(x, y, style.uniform(0, 3))
    metal = contrast(style, ground, 0.25)
    light = 1 + 0.15 * y
    scene.paint(box(x - 0.25, y, 0.6, 0.08), shaded(metal, light), 1)
    for number in range(int(style.integers(3, 6))):
        scene.paint(
            box(x - 0.25 - 0.13 * number, y - 0.14, 0.04, style.uniform(0.05, 0.16)), shaded(metal, light), 2 + number
        )
    scene.paint(disc(x, y, 0.32, -0.52, 0.0), shaded(metal, light), 9)
    scene.paint(disc(x, y, style.uniform(0.08, 0.2), -0.6, 0.0), scene.ground)
    return scene


@family("printed label", angle=3)
def label(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene, ground = table(x, style, picture, 0.5, 0.95)
    ink = contrast(style, ground, 0.4)
    rows = int(style.integers(1, 4))
    for row in range(rows):
        v = y - (row - (rows - 1) / 2) * 1.5 / rows
        letters(scene, x, v, style, 1.3 / max(rows, 2), ink, int(style.integers(3, 6)), 1 + 6 * row)
    return scene


@family("barcode", angle=2)
def barcode(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene, _ = table(x, style, picture, 0.7, 0.95)
    i, _ = cells(x, style.uniform(0.05, 0.1))
    bar = (chance(i, 0 * i, new_salt(style)) < 0.5) & (np.abs(x) < 0.85)
    height = style.uniform(0.4, 0.7)
    ink = tint(style, 0.02, 0.25)
    scene.colour = mix(scene.colour, ink, bar * cover(np.abs(y + 0.1) - height))
    letters(scene, x, y - height - 0.1, style, 0.25, ink, 5)
    return scene


@family("gauge", angle=3)
def gauge(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene, ground = table(x, style, picture)
    face = contrast(style, ground, 0.2)
    ink = contrast(style, face, 0.4)
    scene.paint(disc(x, y, 0.85), ink * 0.8 + 0.1, 1)
    scene.paint(disc(x, y, 0.76), shaded(face, 1 + 0.05 * x))
    count = int(style.integers(8, 16))
    phase = np.arctan2(y, x) * (count / (2 * np.pi))
    tick = (np.abs(phase - np.round(phase)) * 2 * np.pi / count * np.hypot(x, y)) - 0.025
    scene.paint(
        np.maximum(tick, ring(x, y, 0.64, 0.14)), ink, (2 + np.round(phase).astype(np.int32) % count).astype(np.int16)
    )
    angle = style.uniform(0, 6) + vary(picture, len(x), -0.35, 0.35)
    needle = tint(style, 0.3, 0.7, 1.0)
    scene.paint(segment(x, y, 0.0, 0.0, 0.5 * np.cos(angle), 0.5 * np.sin(angle), 0.07), needle, 60)
    scene.paint(disc(x, y, 0.1), ink, 61)
    return scene


@family("digital display", angle=2)
def display(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene, _ = table(x, style, picture, 0.03, 0.25)
    lit = tint(style, 0.5, 0.8, 1.0)
    count = int(style.integers(1, 4))
    number = 1
    for place in range(count):
        u = (x - (place - (count - 1) / 2) * 1.7 / count) * count / 1.5
        v = y * 1.5
        bars = (
            (0, -0.8, 1),
            (0, 0, 1),
            (0, 0.8, 1),
            (-0.45, -0.4, 0),
            (0.45, -0.4, 0),
            (-0.45, 0.4, 0),
            (0.45, 0.4, 0),
        )
        for cx, cy, flat in bars:
            on = style.uniform() < 0.7
            d = box(u - cx, v - cy, 0.34, 0.09, 0.05) if flat else box(u - cx, v - cy, 0.09, 0.3, 0.05)
            scene.paint(d * 0.6, lit if on else lit * 0.15 + 0.05, number)
            number += 1
    return scene


@family("tissue section", angle=180, shift=0.5)
def tissue(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    x, y = anew(x, y, picture)
    size = x.shape[-1]
    stain = tint(style, 0.55, 0.85, 0.9)
    wobble = 0.05 * noise(picture, len(x), size, 10)
    first, second, owner = worley(x + wobble, y - wobble, style.uniform(0.2, 0.36), new_salt(style))
    light = 1 - 0.3 * np.exp(-(second - first) * 8) + 0.05 * fbm(picture, len(x), size, 6)
    scene = drawing(shaded(stain, light))
    nucleus = (first - style.uniform(0.14, 0.26) - 0.1 * (owner - 0.5)) * 0.3
    scene.paint(
        nucleus.astype(np.float32),
        shaded(stain * np.float32(0.5), 0.8 + 0.4 * owner),
        (1 + owner * 96).astype(np.int16),
    )
    return scene


@family("brain scan", angle=6)
def brain(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    size = x.shape[-1]
    scene = drawing(plain(x, np.full(3, 0.03, np.float32)))
    oval = style.uniform(0.75, 0.9)
    r = np.hypot(x / oval, y) + 0.02 * noise(picture, len(x), size, 5)
    grey = np.full(3, style.uniform(0.4, 0.6), np.float32)
    scene.paint(r - 0.85, grey * 1.5, 1)
    scene.paint(r - 0.78, grey * 0.3)
    folds = np.sin(np.arctan2(y, x) * int(style.integers(9, 18)) + 3 * noise(picture, len(x), size, 5)) * 0.05
    scene.paint(r - 0.72 - folds, shaded(grey, 1 + 0.06 * fbm(picture, len(x), size, 8)), 2)
    scene.paint(r - 0.5 - 2 * folds, shaded(grey * 1.35, 1 + 0.04 * fbm(picture, len(x), size, 8)))
    wide = vary(picture, len(x), 0.8, 1.2)
    for side in (-1, 1):
        u, v = turn(x - side * 0.15, y + 0.05, side * 0.3)
        scene.paint((np.hypot(u / 0.4, v) - 0.24 * wide) * 0.5, grey * 0.2)
    scene.paint(np.maximum(np.abs(x) - 0.015, r - 0.72), grey * 0.4)
    return scene


@family("chest scan", angle=4)
def chest(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    size = x.shape[-1]
    scene = drawing(shaded(np.full(3, style.uniform(0.5, 0.75), np.float32), 1 + 0.1 * noise(picture, len(x), size, 3)))
    breath = vary(picture, len(x), 0.92, 1.08)
    tall = style.uniform(0.6, 0.75)
    for side in (-1, 1):
        u = x - side * 0.42
        lung = (np.hypot(u / 0.55, (y + 0.05) / breath) - tall) * 0.6
        scene.paint(
            lung, shaded(np.full(3, 0.22, np.float32), 1 + 0.25 * fbm(picture, len(x), size, 6)), 2 + (side > 0)
        )
    rib = np.cos((y + 0.45 * np.abs(x)) * breath * style.uniform(14, 20))
    scene.colour = scene.colour + (0.12 * np.clip(rib, 0, 1) * (np.abs(x) > 0.1))[..., None]
    scene.colour = mix(scene.colour, np.full(3, 0.8, np.float32), 0.6 * cover(box(x, y, 0.1, 1.2)))
    scene.paint((np.hypot((x - 0.18) / 0.8, y - 0.3) - 0.32) * 0.8, np.full(3, 0.75, np.float32), 1)
    return scene


@family("retina", angle=10)
def retina(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    size = x.shape[-1]
    scene = drawing(plain(x, np.full(3, 0.02, np.float32)))
    body = tint(style, 0.35, 0.6, 1.0)
    scene.paint(disc(x, y, 0.9), shaded(body, 1 + 0.06 * fbm(picture, len(x), size, 4) - 0.25 * np.hypot(x, y)), 1)
    cx, cy = style.uniform(0.3, 0.45), style.uniform(-0.1, 0.1)
    vein = body * np.float32(0.55)
    for _ in range(int(style.integers(4, 7))):
        a, px, py = style.uniform(0, 2 * np.pi), cx, cy
        sway = vary(picture, len(x), -0.05, 0.05)
        for step in range(5):
            a += style.uniform(-0.45, 0.45)
            qx, qy = px + 0.28 * np.cos(a), py + 0.28 * np.sin(a)
            stroke = segment(x, y, px + sway, py - sway, qx + sway, qy - sway, 0.07 - 0.01 * step)
            scene.paint(np.maximum(stroke, disc(x, y, 0.88)), vein)
            px, py = qx, qy
    scene.paint(disc(x, y, 0.17, cx, cy), np.clip(body * 1.8, 0, 1), 2)
    scene.colour = scene.colour * (1 - 0.4 * np.exp(-((x + 0.25) ** 2 + y**2) * 40))[..., None]
    return scene


@family("fuse", angle=4)
def fuse(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene, _ = table(x, style, picture, 0.4, 0.95)
    x, y = turn(x, y, style.uniform(0, 3))
    width = style.uniform(0.2, 0.3)
    gleam = 0.8 + 0.35 * np.cos(y / width * 1.3)
    scene.paint(box(x, y, 0.6, width), scene.ground * 0.85 + 0.1, 1)
    sag = vary(picture, len(x), -0.06, 0.06) * np.cos(x * 2.5)
    scene.paint(np.maximum(np.abs(y + sag) - 0.035, np.abs(x) - 0.6), tint(style, 0.1, 0.4), 2)
    metal = tint(style, 0.5, 0.9, 0.4)
    for side in (-1, 1):
        scene.paint(box(x - side * 0.66, y, 0.2, width * 1.1, 0.03), shaded(metal, gleam), 3 + (side > 0))
    return scene


@family("spring", angle=5)
def spring(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene, ground = table(x, style, picture)
    x, y = turn(x, y, style.uniform(0, 3))
    metal = contrast(style, ground, 0.3)
    period, height = style.uniform(0.18, 0.3), style.uniform(0.25, 0.4)
    period_now = period * vary(picture, len(x), 0.97, 1.03)
    i, u = cells((x + y * style.uniform(0.1, 0.25)) / period_now, 1.0)
    coil = np.maximum(np.abs(u * period) - period * 0.24, box(x, y, 0.8, height))
    scene.paint(coil, shaded(metal, 0.7 + 0.5 * np.cos(y / height * 1.4)), (1 + i % 97).astype(np.int16))
    return scene


@family("flange", angle=180)
def flange(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene, ground = table(x, style, picture)
    metal = contrast(style, ground, 0.25)
    rough = 1 + 0.05 * noise(picture, len(x), x.shape[-1], 30)
    scene.paint(disc(x, y, 0.82), shaded(metal, rough * (0.95 + 0.1 * x)), 1)
    count = int(style.integers(4, 9))
    for number in range(count):
        a = 2 * np.pi * number / count
        scene.paint(disc(x, y, 0.09, 0.6 * np.cos(a), 0.6 * np.sin(a)), metal * 0.25, 2 + number)
    scene.paint(ring(x, y, 0.4, 0.1), shaded(metal, 1.2 - 0.2 * y))
    scene.paint(disc(x, y, style.uniform(0.18, 0.32)), scene.ground * 0.5)
    return scene


@family("led panel", angle=2)
def leds(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene, _ = table(x, style, picture, 0.02, 0.2)
    count, colour = int(style.integers(3, 6)), tint(style, 0.5, 0.8, 1.0)
    period = 1.8 / count
    i, u = cells(x + 0.9, period)
    j, v = cells(y + 0.9, period)
    inside = (np.abs(x) < 0.9) & (np.abs(y) < 0.9)
    glow = np.exp(-(u**2 + v**2) * 9) * inside
    scene.colour = scene.colour + colour * glow[..., None] * 0.4
    lamp = np.where(inside, disc(u, v, 0.25) * period, 1.0).astype(np.float32)
    scene.paint(lamp, np.clip(colour * 1.2, 0, 1), (1 + i * count + j).astype(np.int16))
    return scene


@family("candles", angle=3)
def candles(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene, ground = table(x, style, picture)
    wax = contrast(style, ground, 0.2)
    size = style.uniform(0.28, 0.38)
    for number in range(4):
        u = x - (number % 2 - 0.5) * 0.95 - vary(picture, len(x), -0.05, 0.05)
        v = y - (number // 2 - 0.5) * 0.95 - vary(picture, len(x), -0.05, 0.05)
        scene.paint(disc(u, v, size), shaded(wax, 0.95 + 0.3 * u), 1 + number)
        scene.paint(disc(u, v, size * 0.75), shaded(wax, 1.08 - 0.2 * u))
        scene.paint(disc(u, v, 0.06), wax * 0.3)
    return scene


@family("pasta", angle=180)
def pasta(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene, ground = table(x, style, picture, 0.05, 0.5)
    dough = contrast(style, ground, 0.3)
    radius, width = style.uniform(0.45, 0.6), style.uniform(0.25, 0.4)
    bow = np.maximum(ring(x, y - 0.2, radius, width), y - 0.2 + style.uniform(-0.1, 0.2) * np.abs(x))
    across = (np.hypot(x, y - 0.2) - radius) / width
    light = 0.75 + 0.4 * np.cos(across * 2.6) + 0.08 * np.sin(across * style.uniform(20, 40))
    scene.paint(bow, shaded(dough, light), 1)
    return scene


@family("ball bearing", angle=180)
def bearing(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene, ground = table(x, style, picture)
    metal = contrast(style, ground, 0.2)
    sheen = 1 + 0.15 * np.cos(2 * np.arctan2(y, x))
    scene.paint(disc(x, y, 0.84), shaded(metal, sheen), 1)
    scene.paint(disc(x, y, 0.68), metal * 0.3)
    count = int(style.integers(7, 12))
    ball = metal * np.float32(1.1)
    for number in range(count):
        a = 2 * np.pi * number / count
        u, v = x - 0.52 * np.cos(a), y - 0.52 * np.sin(a)
        scene.paint(disc(u, v, 0.125), shaded(ball, 1 - 2.5 * np.hypot(u + 0.04, v + 0.04)), 2 + number)
    scene.paint(disc(x, y, 0.37), shaded(metal, sheen), 50)
    scene.paint(disc(x, y, style.uniform(0.18, 0.28)), scene.ground)
    return scene


@family("wheel", angle=180)
def wheel(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene, _ = table(x, style, picture)
    tyre = tint(style, 0.05, 0.2, 0.2)
    rim = contrast(style, tyre, 0.4)
    scene.paint(disc(x, y, 0.85), tyre, 1)
    scene.paint(disc(x, y, 0.62), rim * 0.35, 2)
    count = int(style.integers(4, 9))
    phase = np.arctan2(y, x) * (count / (2 * np.pi))
    spoke = np.abs(phase - np.round(phase)) * 2 * np.pi / count * np.hypot(x, y) - style.uniform(0.05, 0.09)
    number = (3 + np.round(phase).astype(np.int32) % count).astype(np.int16)
    scene.paint(np.maximum(spoke, disc(x, y, 0.6)), shaded(rim, 1 + 0.1 * x), number)
    scene.paint(ring(x, y, 0.6, 0.08), shaded(rim, 1 - 0.1 * y))
    scene.paint(disc(x, y, 0.17), rim * 0.8, 40)
    return scene


@family("knob", angle=10)
def knob(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene, ground = table(x, style, picture)
    body = contrast(style, ground, 0.2)
    lobes, depth = int(style.integers(3, 9)), style.uniform(0.05, 0.14)
    r, angle = np.hypot(x, y), np.arctan2(y, x)
    scene.paint(r - 0.66 - depth * np.cos(angle * lobes), shaded(body, 0.8 + 0.2 * np.cos(angle * lobes)), 1)
    scene.paint(disc(x, y, 0.45), shaded(body, 1.1 + 0.15 * x))
    a = style.uniform(0, 6)
    scene.paint(
        segment(x, y, 0.15 * np.cos(a), 0.15 * np.sin(a), 0.4 * np.cos(a), 0.4 * np.sin(a), 0.07),
        contrast(style, body, 0.4),
        2,
    )
    return scene


@family("grille", shift=0.06)
def grille(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    plate = 1 + 0.03 * fbm(picture, len(x), x.shape[-1], 5)
    scene = drawing(shaded(tint(style, 0.3, 0.85, 0.3), plate))
    period, half = style.uniform(0.2, 0.34), style.uniform(0.25, 0.4)
    columns = int(style.integers(1, 3))
    j, v = cells(y, period)
    for column in range(columns):
        u = x - (column - (columns - 1) / 2) * 0.95
        slot = box(u, v * period, half if columns > 1 else 0.75, period * 0.22, 0.03)
        slot = np.where(np.abs(y) < 0.85, slot, 1.0).astype(np.float32)
        scene.paint(slot, tint(style, 0.02, 0.2), (1 + (j * 2 + column) % 97).astype(np.int16))
    return scene


@family("power socket", angle=4)
def socket(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene, ground = table(x, style, picture, 0.3, 0.95)
    body = contrast(style, ground, 0.12)
    scene.paint(box(x, y, 0.8, 0.8, 0.12), shaded(body, 1 + 0.06 * x), 1)
    scene.paint(disc(x, y, 0.6), shaded(body, 0.82 - 0.1 * y))
    count = int(style.integers(2, 4))
    for number in range(count):
        a = 2 * np.pi * number / count + np.pi * (count == 3) / 2
        scene.paint(disc(x, y, 0.1, 0.3 * np.cos(a), 0.3 * np.sin(a)), body * 0.15, 2 + number)
    return scene


@family("ruler", angle=3)
def ruler(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene, ground = table(x, style, picture)
    body = contrast(style, ground, 0.2)
    ink = contrast(style, body, 0.4)
    scene.paint(box(x, y, 1.5, 0.5), body, 1)
    period = style.uniform(0.12, 0.2)
    i, u = cells(x, period)
    length = np.where(i % 5 == 0, 0.3, 0.15)
    tick = np.maximum(np.abs(u * period) - 0.025, np.maximum(-0.5 - y, y + 0.5 - length)).astype(np.float32)
    scene.paint(tick, ink, (2 + i % 90).astype(np.int16))
    letters(scene, x, y - 0.2, style, 0.3, ink, 3)
    return scene


@family("cookie", angle=180)
def cookie(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene, _ = table(x, style, picture)
    size = x.shape[-1]
    dough = tint(style, 0.45, 0.75, 0.8)
    edge = 0.02 * noise(picture, len(x), size, 10)
    scene.paint(disc(x, y, 0.76) + edge, shaded(dough, 1 + 0.07 * fbm(picture, len(x), size, 12)), 1)
    for number in range(int(style.integers(5, 11))):
        a, r = picture.uniform(0, 6.3, (len(x), 1, 1)), picture.uniform(0.1, 0.6, (len(x), 1, 1))
        d = disc(x, y, 0.1, r * np.cos(a), r * np.sin(a)).astype(np.float32)
        scene.paint(d, dough * np.float32(0.35), 2 + number)
    return scene


@family("lens", angle=10)
def lens(x: Field, y: Field, style: Generator, picture: Generator) -> Drawing:
    scene, ground = table(x, style, picture)
    mount = contrast(style, ground, 0.2)
    scene.paint(disc(x, y, 0.84), mount, 1)
    glass = tint(style, 0.1, 0.4, 1.0)
    radius = 0.7
    for number in range(int(style.integers(2, 5))):
        scene.paint(disc(x, y, radius), shaded(glass, style.uniform(0.5, 1.4) + 0.3 * y), 2 + number)
        radius -= style.uniform(0.1, 0.18)
    scene.paint(disc(x, y, 0.08, -0.25, -0.3), np.full(3, 0.95, np.float32))
    return scene


def letters(
    scene: Drawing, x: Field, y: Field, style: Generator, height: float, ink: Colour, count: int = 1, part: int = 30
) -> None:
    """`count` made-up letters, each of strokes on a grid of 3 by 4, centred on the origin; each a part."""
    for number in range(count):
        u = x - (number - (count - 1) / 2) * height * 0.75
        shape = np.full(x.shape, 9.0, np.float32)
        points = style.integers(0, 3, (5, 2)) * np.array([1, 1.5]) - np.array([1.0, 1.5])
        for a, b in itertools.pairwise(points):
            ax, ay, bx, by = (float(value) * height / 3.2 for value in (*a, *b))
            shape = np.minimum(shape, segment(u, y, ax, ay, bx, by, height * 0.14))
        scene.paint(shape, ink, part + number)
