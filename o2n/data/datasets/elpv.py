"""ELPV (Deitsch et al., 2019): electroluminescence pictures of solar cells, surely good or surely bad ones alone."""

from pathlib import Path

from o2n.data.datasets.base import DataSet, LabelledCategory, Sample, existing, file_sample, unsplit_category
from o2n.errors import DataSetError

LAYOUT = "labels.csv with lines such as `images/cell0001.png 1.0 mono`, and the pictures that it names"


def _load(root: Path) -> list[LabelledCategory]:
    table = existing(root / "labels.csv", LAYOUT)
    good: list[Sample] = []
    bad: list[Sample] = []
    for number, line in enumerate(table.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        try:
            name, probability, kind = line.replace(",", " ").split()
            chance = float(probability)
        except ValueError:
            raise DataSetError(f"{table}, line {number}: {line[:80]!r} is no label; expected {LAYOUT}") from None
        if chance in (0.0, 1.0):  # InCTRL leaves out what the experts were in doubt about
            picture = existing(root / name, LAYOUT)
            (bad if chance else good).append(file_sample(root, picture, kind if chance else "good"))
    return [unsplit_category("solar_cell", "solar cell", good, bad, table, LAYOUT)]


ELPV = DataSet("elpv", "ELPV", "industrial", _load)
