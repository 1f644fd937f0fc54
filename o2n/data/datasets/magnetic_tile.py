"""Magnetic tile photographs (Huang, Qiu & Yuan, 2018): a folder for each kind, masks in `ground_truth`.

It has no split of its own: as in the InCTRL benchmark a quarter of the good pictures is for testing.
"""

from pathlib import Path

from o2n import images
from o2n.data.datasets.base import (
    GOOD,
    DataSet,
    LabelledCategory,
    existing,
    file_sample,
    pictures_in,
    unsplit_category,
)

LAYOUT = "good/*.jpg, KIND/NAME.jpg and ground_truth/KIND/NAME.png"


def _load(root: Path) -> list[LabelledCategory]:
    good = [file_sample(root, path) for path in pictures_in(root / GOOD, LAYOUT)]
    kinds = sorted(path for path in root.iterdir() if path.is_dir() and path.name not in (GOOD, "ground_truth"))
    bad = [
        file_sample(root, path, kind.name, existing(root / "ground_truth" / kind.name / f"{path.stem}.png", LAYOUT))
        for kind in kinds
        for path in images.find(kind)
    ]
    return [unsplit_category("magnetic_tile", "magnetic tile", good, bad, root, LAYOUT)]


MAGNETIC_TILE = DataSet("magnetic-tile", "magnetic tile", "industrial", _load)
