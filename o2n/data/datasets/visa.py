"""VisA (Zou et al., ECCV 2022), with the one-class split that it is published with."""

import csv
from pathlib import Path

from o2n.data.datasets.base import DataSet, LabelledCategory, Sample, existing, file_sample
from o2n.errors import DataSetError

# What prompts call each object; as for MVTec AD, signs and numbers of a name say nothing to an encoder.
WORDS = {
    "candle": "candle",
    "capsules": "capsules",
    "cashew": "cashew",
    "chewinggum": "chewing gum",
    "fryum": "fryum",
    "macaroni1": "macaroni",
    "macaroni2": "macaroni",
    "pcb1": "printed circuit board",
    "pcb2": "printed circuit board",
    "pcb3": "printed circuit board",
    "pcb4": "printed circuit board",
    "pipe_fryum": "pipe fryum",
}
LAYOUT = "split_csv/1cls.csv with the columns object, split, label, image, mask, and the files that it names"


def _load(root: Path) -> list[LabelledCategory]:
    table = existing(root / "split_csv" / "1cls.csv", LAYOUT)
    found: dict[str, dict[str, list[Sample]]] = {name: {"train": [], "test": []} for name in WORDS}
    with table.open(newline="", encoding="utf-8", errors="replace") as file:
        for row in csv.DictReader(file):
            try:
                part = found[row["object"]][row["split"]]
                part.append(_sample(root, row["label"], row["image"], row["mask"]))
            except KeyError as error:
                raise DataSetError(f"{table}: unknown column or value {error}; expected {LAYOUT}") from None
    for name, parts in found.items():
        if not parts["train"] or len({query.anomalous for query in parts["test"]}) < 2:
            raise DataSetError(f"{table}: too few rows of {name}; expected {LAYOUT}")
    return [
        LabelledCategory(name, WORDS[name], tuple(parts["train"]), tuple(parts["test"]))
        for name, parts in found.items()
    ]


def _sample(root: Path, label: str, image: str, mask: str) -> Sample:
    picture = existing(root / image, LAYOUT)
    if label == "normal":
        return file_sample(root, picture)
    return file_sample(root, picture, "anomaly", existing(root / mask, LAYOUT) if mask else None)


VISA = DataSet("visa", "VisA", "industrial", _load)
