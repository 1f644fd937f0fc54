"""MVTec AD (Bergmann et al., IJCV 2021), and any other folder that is laid out like it."""

from pathlib import Path

from o2n import images
from o2n.data.datasets.base import GOOD, DataSet, LabelledCategory, existing, file_sample, pictures_in
from o2n.errors import DataSetError

CATEGORIES = (
    "bottle",
    "cable",
    "capsule",
    "carpet",
    "grid",
    "hazelnut",
    "leather",
    "metal_nut",
    "pill",
    "screw",
    "tile",
    "toothbrush",
    "transistor",
    "wood",
    "zipper",
)
LAYOUT = "CATEGORY/train/good, CATEGORY/test/KIND and, for masks, CATEGORY/ground_truth/KIND, as in MVTec AD"
PUBLISHED = f"all {len(CATEGORIES)} categories as {LAYOUT}"


def load_category(root: Path, folder: Path, layout: str = LAYOUT, *, masked: bool = False) -> LabelledCategory:
    """One category in MVTec's layout, in `folder` below `root`. A mask is called as its picture, or with `_mask` after.

    Args: masked: whether all defects must have a mask; or else a kind without a folder of masks has none.

    Raises:
        DataSetError: a folder or a mask is missing.
    """
    normals = [file_sample(root, path) for path in pictures_in(folder / "train" / GOOD, layout)]
    kinds = sorted(path for path in existing(folder / "test", layout).iterdir() if path.is_dir())
    queries = [
        file_sample(root, path, kind.name, _mask(folder / "ground_truth" / kind.name, path, layout, masked))
        for kind in kinds
        for path in images.find(kind)
    ]
    if len({query.anomalous for query in queries}) < 2:
        raise DataSetError(f"{folder / 'test'}: needs pictures of `good` and of another kind; expected {layout}")
    return LabelledCategory(
        folder.name, folder.name.replace("_", " ").replace("-", " "), tuple(normals), tuple(queries)
    )


def load_folder(root: Path) -> list[LabelledCategory]:
    """`root` itself, if it is a category in MVTec's layout, or else all its folders that are."""
    if (existing(root, LAYOUT) / "train" / GOOD).is_dir():
        return [load_category(root.parent, root)]
    found = sorted(folder for folder in root.iterdir() if (folder / "train" / GOOD).is_dir())
    if not found:
        raise DataSetError(f"{root}: has no CATEGORY/train/good; expected {LAYOUT}")
    return [load_category(root, folder) for folder in found]


def _load(root: Path) -> list[LabelledCategory]:
    return [load_category(root, root / name, PUBLISHED, masked=True) for name in CATEGORIES]


def _mask(folder: Path, picture: Path, layout: str, masked: bool) -> Path | None:
    if picture.parent.name == GOOD or not (masked or folder.is_dir()):
        return None
    named = [folder / f"{picture.stem}{end}{suffix}" for end in ("_mask", "") for suffix in (".png", picture.suffix)]
    found = next((path for path in named if path.is_file()), None)
    return found or existing(named[0], layout)


MVTEC = DataSet("mvtec", "MVTec", "industrial", _load)
