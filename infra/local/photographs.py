"""The demo's pictures: crops of the photographs that ship inside scikit-image, some with defects painted on.

Written in MVTec layout, as a user's own tree would be: NAME/train/good, NAME/test/good, NAME/test/<kind>.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

CATEGORIES = ("brick", "grass", "gravel")
REFERENCES = 4
GOOD_QUERIES = 6
CROP = 128

Generator = np.random.Generator


def write_photographs(folder: Path) -> None:
    """Cut every photograph into 16 crops that do not overlap: 4 references, 6 good queries, 6 that get a defect."""
    import skimage.data

    for name in CATEGORIES:
        photograph = Image.fromarray(getattr(skimage.data, name)()).convert("RGB")
        rng = np.random.default_rng([0, *name.encode()])
        places = [(x, y) for y in range(0, 512, CROP) for x in range(0, 512, CROP)]
        crops = [photograph.crop((x, y, x + CROP, y + CROP)) for x, y in (places[i] for i in rng.permutation(16))]
        for index, crop in enumerate(crops):
            if index < REFERENCES:
                _save(crop, folder / name / "train" / "good", index)
            elif index < REFERENCES + GOOD_QUERIES:
                _save(crop, folder / name / "test" / "good", index)
            else:
                kind = list(DEFECTS)[index % len(DEFECTS)]
                _save(DEFECTS[kind](crop, rng), folder / name / "test" / kind, index)


def _save(picture: Image.Image, folder: Path, index: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    picture.save(folder / f"{index:03}.png")


def _scratch(picture: Image.Image, rng: Generator) -> Image.Image:
    """A bright line across a third of the picture or more."""
    (x0, y0), angle, length = rng.uniform(24, 104, 2), rng.uniform(0, 2 * np.pi), rng.uniform(45, 75)
    points = [(x0 + s * length * np.cos(angle), y0 + s * length * np.sin(angle)) for s in (-0.5, 0.0, 0.5)]
    points[1] = (points[1][0] + rng.uniform(-6, 6), points[1][1] + rng.uniform(-6, 6))
    scratched = picture.copy()
    ImageDraw.Draw(scratched).line(points, fill=(235, 235, 230), width=3, joint="curve")
    return scratched


def _hole(picture: Image.Image, rng: Generator) -> Image.Image:
    """A dark disc with a soft rim."""
    mask = _blob(rng, radius=rng.uniform(8, 14)).filter(ImageFilter.GaussianBlur(1.5))
    return Image.composite(Image.new("RGB", picture.size, (18, 16, 15)), picture, mask)


def _stain(picture: Image.Image, rng: Generator) -> Image.Image:
    """A brown, half transparent spot."""
    mask = _blob(rng, radius=rng.uniform(14, 24)).filter(ImageFilter.GaussianBlur(3))
    return Image.composite(Image.blend(picture, Image.new("RGB", picture.size, (110, 60, 20)), 0.55), picture, mask)


def _blob(rng: Generator, radius: float) -> Image.Image:
    x, y = rng.uniform(30, CROP - 30, 2)
    mask = Image.new("L", (CROP, CROP))
    ImageDraw.Draw(mask).ellipse((x - radius, y - radius * rng.uniform(0.7, 1), x + radius, y + radius), fill=255)
    return mask


DEFECTS: dict[str, Callable[[Image.Image, Generator], Image.Image]] = {
    "scratch": _scratch,
    "hole": _hole,
    "stain": _stain,
}
