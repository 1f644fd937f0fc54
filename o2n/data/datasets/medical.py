"""The medical data sets: BrainMRI and HeadCT with the InCTRL benchmark's split, OCT2017 and RESC with ours.

OCT2017 and RESC are published with a split, which the paper does not speak of: shots are drawn from the good pictures
of `train`, all of `test` is asked, and `val` or `valid` is left alone.
"""

import csv
from pathlib import Path

from o2n.data.datasets.base import (
    GOOD,
    DataSet,
    LabelledCategory,
    Sample,
    existing,
    file_sample,
    pictures_in,
    unsplit_category,
)
from o2n.errors import DataSetError

BRAIN_LAYOUT = "no/* for pictures without a tumour and yes/* for those with one"
HEAD_LAYOUT = "labels.csv with the columns id, hemorrhage (0 or 1), and head_ct/head_ct/NNN.png"
OCT_LAYOUT = "train/NORMAL/*.jpeg and test/{NORMAL,CNV,DME,DRUSEN}/*.jpeg"
RESC_LAYOUT = "train/good/*.png, test/good/img/*.png, test/Ungood/img/*.png and test/Ungood/label/*.png, as in BMAD"


def _load_brain(root: Path) -> list[LabelledCategory]:
    good = [file_sample(root, path) for path in pictures_in(root / "no", BRAIN_LAYOUT)]
    bad = [file_sample(root, path, "tumour") for path in pictures_in(root / "yes", BRAIN_LAYOUT)]
    return [unsplit_category("brain", "brain MRI", good, bad, root, BRAIN_LAYOUT)]


def _load_head(root: Path) -> list[LabelledCategory]:
    table = existing(root / "labels.csv", HEAD_LAYOUT)
    good: list[Sample] = []
    bad: list[Sample] = []
    with table.open(newline="", encoding="utf-8", errors="replace") as file:
        for row in csv.reader(file):
            if len(row) != 2 or not row[0].strip().isdigit():
                continue  # the titles
            picture = existing(root / "head_ct" / "head_ct" / f"{int(row[0]):03}.png", HEAD_LAYOUT)
            if row[1].strip() not in ("0", "1"):
                raise DataSetError(f"{table}: {row[1][:80]!r} of picture {row[0]} is no label; expected {HEAD_LAYOUT}")
            ill = row[1].strip() == "1"
            (bad if ill else good).append(file_sample(root, picture, "haemorrhage" if ill else GOOD))
    return [unsplit_category("head", "head CT", good, bad, table, HEAD_LAYOUT)]


def _load_oct(root: Path) -> list[LabelledCategory]:
    normals = [file_sample(root, path) for path in pictures_in(root / "train" / "NORMAL", OCT_LAYOUT)]
    queries = [
        file_sample(root, path, GOOD if kind == "NORMAL" else kind)
        for kind in ("NORMAL", "CNV", "DME", "DRUSEN")
        for path in pictures_in(root / "test" / kind, OCT_LAYOUT)
    ]
    return [LabelledCategory("retina", "retinal OCT", tuple(normals), tuple(queries))]


def _load_resc(root: Path) -> list[LabelledCategory]:
    test = root / "test"
    normals = [file_sample(root, path) for path in pictures_in(root / "train" / GOOD, RESC_LAYOUT)]
    good = [file_sample(root, path) for path in pictures_in(test / GOOD / "img", RESC_LAYOUT)]
    bad = [
        file_sample(root, path, "oedema", existing(test / "Ungood" / "label" / path.name, RESC_LAYOUT))
        for path in pictures_in(test / "Ungood" / "img", RESC_LAYOUT)
    ]
    return [LabelledCategory("retina", "retinal OCT", tuple(normals), tuple(good + bad))]


BRAIN_MRI = DataSet("brainmri", "BrainMRI", "medical", _load_brain)
HEAD_CT = DataSet("headct", "HeadCT", "medical", _load_head)
OCT2017 = DataSet("oct2017", "OCT2017", "medical", _load_oct)
RESC = DataSet("resc", "RESC", "medical", _load_resc)
