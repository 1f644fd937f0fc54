"""KolektorSDD (Tabernik et al., 2020), its tall photographs cut in three as the InCTRL benchmark does."""

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
    read_mask,
    unsplit_category,
)

LAYOUT = "kosNN/PartN.jpg, each with its mask PartN_label.bmp beside it"


def _load(root: Path) -> list[LabelledCategory]:
    parts = [
        part
        for folder in sorted(existing(root, LAYOUT).iterdir())
        if folder.is_dir()
        for path in images.find(folder)
        if path.suffix == ".jpg"
        for part in _thirds(root, path)
    ]
    good = [part for part in parts if not part.anomalous]
    bad = [part for part in parts if part.anomalous]
    return [unsplit_category("commutator", "electrical commutator", good, bad, root, LAYOUT)]


def _thirds(root: Path, path: Path) -> list[Sample]:
    """A third is bad if its mask is not empty, so all masks are read here; the pictures are not."""
    mask_path = existing(path.with_name(f"{path.stem}_label.bmp"), LAYOUT)
    mask = read_mask(mask_path)
    height, width = mask.shape
    edges = (0, height // 3, height * 2 // 3, height)
    parts = []
    for number in range(3):
        box = (edges[number], edges[number + 1], 0, width)
        bad = bool(mask[box[0] : box[1]].any())
        parts.append(
            Sample(
                f"{path.relative_to(root).as_posix()}#{number}",
                "defect" if bad else GOOD,
                partial(cut, path, box),
                partial(cut_mask, (mask_path,), box) if bad else None,
                (path, mask_path),
            )
        )
    return parts


KOLEKTOR = DataSet("kolektor", "KSDD", "industrial", _load)
