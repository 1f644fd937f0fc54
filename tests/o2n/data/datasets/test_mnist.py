"""MNIST's published files, each digit against the others."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from o2n.data.datasets import DATASETS
from o2n.errors import DataSetError
from tests.o2n.data.datasets.trees import check, kinds

COUNT = 80


def write(root: Path, part: str) -> None:
    pictures = np.random.default_rng(len(part)).integers(0, 255, (COUNT, 28, 28), dtype=np.uint8)
    pictures[:, 0, 0] = np.arange(COUNT)
    header = np.array([2051, COUNT, 28, 28], ">i4").tobytes()
    (root / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + pictures.tobytes()))
    labels = np.arange(COUNT, dtype=np.uint8) % 10
    header = np.array([2049, COUNT], ">i4").tobytes()
    (root / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(header + labels.tobytes()))


def test_mnist(tmp_path: Path) -> None:
    write(tmp_path, "train")
    write(tmp_path, "t10k")
    loaded = DATASETS["mnist"].load(tmp_path)
    assert len(loaded) == 10
    for digit, category in enumerate(loaded):
        check(category)
        assert len(category.normals) == 8
        assert kinds(category)["good"] == 8
        assert len(category.queries) == COUNT
        assert {int(one.read()[0, 0, 0]) % 10 for one in category.normals} == {digit}
    assert loaded[3].object_word == "digit three"


def test_the_test_pictures_alone(tmp_path: Path) -> None:
    write(tmp_path, "t10k")
    loaded = DATASETS["mnist-t10k"].load(tmp_path)
    for category in loaded:
        check(category)
        assert len(category.normals) == 6
        assert len(category.queries) == 20
        assert kinds(category)["good"] == 2
    with pytest.raises(DataSetError, match=r"train-images-idx3-ubyte.gz: no such file.*expected train-images"):
        DATASETS["mnist"].load(tmp_path)


@pytest.mark.parametrize(
    "data",
    [b"no gzip", gzip.compress(b""), gzip.compress(np.array([2051, 9, 28, 28], ">i4").tobytes() + b"short")],
    ids=["no gzip", "empty", "cut"],
)
def test_a_damaged_file_is_named(tmp_path: Path, data: bytes) -> None:
    write(tmp_path, "t10k")
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(data)
    with pytest.raises(DataSetError, match=r"t10k-images-idx3-ubyte.gz: is n.*fetch it anew"):
        DATASETS["mnist-t10k"].load(tmp_path)
