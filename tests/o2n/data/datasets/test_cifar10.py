"""CIFAR-10's binary version."""

from pathlib import Path

import numpy as np
import pytest

from o2n.data.datasets import DATASETS
from o2n.errors import DataSetError
from tests.o2n.data.datasets.trees import check, kinds

NAMES = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for name in NAMES:
        records = np.zeros((20, 3073), np.uint8)
        records[:, 0] = np.arange(20) % 10
        # Red falls from left to right, green from top to bottom, blue is the class.
        across = np.tile(np.arange(32, dtype=np.uint8), 32)
        records[:, 1:1025], records[:, 1025:2049] = across, np.sort(across)
        records[:, 2049:] = records[:, :1]
        records.tofile(folder / name)
    return tmp_path


def test_cifar10(tree: Path) -> None:
    loaded = DATASETS["cifar10"].load(tree)
    assert [one.name for one in loaded][:2] == ["airplane", "automobile"]
    for number, category in enumerate(loaded):
        check(category)
        assert len(category.normals) == 10
        assert kinds(category)["good"] == 2
        shown = category.normals[0].read()
        assert shown.shape == (32, 32, 3)
        assert (shown[:, 5, 0] == 5).all()
        assert (shown[7, :, 1] == 7).all()
        assert (shown[..., 2] == number).all()
    inner = DATASETS["cifar10"].load(tree / "cifar-10-batches-bin")
    assert inner[0].queries[0].key == loaded[0].queries[0].key


def test_what_is_missing_or_pickled_is_named(tree: Path) -> None:
    folder = tree / "cifar-10-batches-bin"
    (folder / "data_batch_4.bin").write_bytes(b"\x80\x04pickle")
    with pytest.raises(DataSetError, match=r"data_batch_4.bin: is no file of CIFAR-10's binary version"):
        DATASETS["cifar10"].load(tree)
    (folder / "data_batch_4.bin").unlink()
    with pytest.raises(DataSetError, match=r"data_batch_4.bin: no such file.*cifar-10-binary.tar.gz"):
        DATASETS["cifar10"].load(tree)
