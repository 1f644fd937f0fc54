"""AITEX, or AFID (Silvestre-Blanes et al., 2019): fabrics, cut into tiles of 256 pixels as in the InCTRL benchmark."""

from functools import partial
from pathlib import Path

from o2n import images
from o2n.data.datasets.base import (
    GOOD,
    DataSet,
    LabelledCategory,
    Sample,
    cut,
    cut_mask,
    existing,
    pictures_in,
    unsplit_category,
)
from o2n.errors import DataSetError

TILE = 256
# The second number of a defective picture's name is the code of its defect.
DEFECTS = {
    "002": "broken end",
    "006": "broken yarn",
    "010": "broken pick",
    "016": "weft curling",
    "019": "fuzzyball",
    "022": "cut selvage",
    "023": "crease",
    "025": "warp ball",
    "027": "knots",
    "029": "contamination",
    "030": "nep",
    "036": "weft crack",
}
LAYOUT = "NODefect_images/FABRIC/*.png, Defect_images/NNNN_CODE_FF.png and Mask_images/NNNN_CODE_FF_mask.png"


def _load(root: Path) -> list[LabelledCategory]:
    fabrics = sorted(path for path in existing(root / "NODefect_images", LAYOUT).iterdir() if path.is_dir())
    good = [
        Sample(_key(root, path, box), GOOD, partial(cut, path, box), files=(path,))
        for fabric in fabrics
        for path in images.find(fabric)
        for box in _tiles(path)
    ]
    # One of its archives, often copied, has each folder once more within itself.
    masks = _unnested(existing(root / "Mask_images", LAYOUT))
    bad = [
        tile
        for path in pictures_in(_unnested(existing(root / "Defect_images", LAYOUT)), LAYOUT)
        for tile in _defective_tiles(root, path, masks)
    ]
    return [unsplit_category("fabric", "fabric", good, bad, root, LAYOUT)]


def _defective_tiles(root: Path, path: Path, masks: Path) -> list[Sample]:
    """The tiles that the mask, or one of several, touches, of which the last may be narrower, as in the benchmark's
    `convert_AITEX.py`. The others of such a picture belong to nobody, and so does a picture that was published without
    its mask."""
    found = tuple(sorted(masks.glob(f"{path.stem}_mask*.png")))
    code = path.stem.split("_")[1] if path.stem.count("_") else ""
    if code not in DEFECTS:
        raise DataSetError(f"{path}: its name has no known code of a defect; expected {LAYOUT}")
    return [
        Sample(
            _key(root, path, box), DEFECTS[code], partial(cut, path, box), partial(cut_mask, found, box), (path, *found)
        )
        for box in _tiles(path, narrower=True)
        if found and cut_mask(found, box).any()
    ]


def _tiles(path: Path, narrower: bool = False) -> list[tuple[int, int, int, int]]:
    """From the left; with `narrower` what is left at the right is a tile too."""
    width, height = images.read(path).shape[1::-1]
    lefts = range(0, width if narrower else width - TILE + 1, TILE)
    return [(0, height, left, min(left + TILE, width)) for left in lefts]


def _key(root: Path, path: Path, box: tuple[int, int, int, int]) -> str:
    return f"{path.relative_to(root).as_posix()}#{box[2] // TILE}"


def _unnested(folder: Path) -> Path:
    return folder / folder.name if (folder / folder.name).is_dir() else folder


AITEX = DataSet("aitex", "AFID", "industrial", _load)
