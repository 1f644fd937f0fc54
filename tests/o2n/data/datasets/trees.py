"""Small data sets on disk, and what holds of every loaded one."""

from pathlib import Path

import numpy as np
from PIL import Image

from o2n.data.datasets.base import LabelledCategory
from o2n.data.datasets.visa import WORDS


def picture(path: Path, height: int = 24, width: int = 20) -> Path:
    """A picture that no other file of the same tree has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([height, width, *path.as_posix().encode()[-40:]])
    Image.fromarray(rng.integers(1, 255, (height, width, 3), dtype=np.uint8)).save(path)
    return path


def mask(path: Path, height: int = 24, width: int = 20, rows: slice = slice(2, 6)) -> Path:
    """Black but for some rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.zeros((height, width), np.uint8)
    values[rows] = 255
    Image.fromarray(values).save(path)
    return path


def check(category: LabelledCategory) -> None:
    """Shots are good and never asked; everything can be read, and from which files is known, if it is not drawn; a mask
    is as large as its picture and not empty."""
    normals, queries = {one.key for one in category.normals}, {one.key for one in category.queries}
    assert len(normals) == len(category.normals)
    assert len(queries) == len(category.queries)
    assert not normals & queries
    assert not any(one.anomalous for one in category.normals)
    assert {one.anomalous for one in category.queries} == {True, False}
    for one in (*category.normals, *category.queries):
        shown = one.read()
        assert shown.ndim == 3
        assert shown.dtype == np.uint8
        assert len(one.files) > bool(one.mask) or "@" in one.key
        assert all(path.is_file() for path in one.files)
        if one.mask:
            assert one.anomalous
            assert one.mask().shape == shown.shape[:2]
            assert one.mask().any()


def kinds(category: LabelledCategory) -> dict[str, int]:
    """How many queries of each kind."""
    found = [one.kind for one in category.queries]
    return {kind: found.count(kind) for kind in sorted(set(found))}


def visa(root: Path) -> Path:
    """VisA: of each object two good pictures to draw from, a good and a bad query."""
    rows = ["object,split,label,image,mask"]
    for name in WORDS:
        for split, number in (("train", 0), ("train", 1), ("test", 2)):
            image = picture(root / name / "Data" / "Images" / "Normal" / f"{number:04}.JPG")
            rows.append(f"{name},{split},normal,{image.relative_to(root)},")
        image = picture(root / name / "Data" / "Images" / "Anomaly" / "000.JPG")
        drawn = mask(root / name / "Data" / "Masks" / "Anomaly" / "000.png")
        rows.append(f"{name},test,anomaly,{image.relative_to(root)},{drawn.relative_to(root)}")
    (root / "split_csv").mkdir()
    (root / "split_csv" / "1cls.csv").write_text("\n".join(rows) + "\n")
    return root
