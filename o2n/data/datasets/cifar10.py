"""CIFAR-10 (Krizhevsky, 2009) in its published binary version, each class against the nine others.

The version for Python is a set of pickles, which run whatever their author likes, and is not read.
"""

import functools
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from o2n.data.datasets.base import GOOD, DataSet, LabelledCategory, Sample, existing, one_against_rest
from o2n.errors import DataSetError
from o2n.images import Picture

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
LAYOUT = "data_batch_1.bin to data_batch_5.bin and test_batch.bin, the binary version (cifar-10-binary.tar.gz)"

_SIDE = 32
_RECORD = 1 + 3 * _SIDE * _SIDE  # the class, then all red, all green and all blue values


def _load(root: Path) -> list[LabelledCategory]:
    nested = root / "cifar-10-batches-bin"
    root = nested if nested.is_dir() else root
    train = [f"data_batch_{number}.bin" for number in range(1, 6)]
    return one_against_rest(CLASSES, CLASSES, _by_class(root, train), _by_class(root, ["test_batch.bin"]))


def _by_class(root: Path, names: list[str]) -> list[list[Sample]]:
    found: list[list[Sample]] = [[] for _ in CLASSES]
    for name in names:
        path = existing(root / name, LAYOUT)
        for row, label in enumerate(_read(path)[:, 0]):
            found[label].append(Sample(f"{name}#{row}", GOOD, partial(_picture, path, row), files=(path,)))
    return found


def _picture(path: Path, row: int) -> Picture:
    return np.ascontiguousarray(_read(path)[row, 1:].reshape(3, _SIDE, _SIDE).transpose(1, 2, 0))


@functools.lru_cache(maxsize=6)
def _read(path: Path) -> NDArray[np.uint8]:
    values = np.fromfile(path, np.uint8)
    if not values.size or values.size % _RECORD or values[::_RECORD].max() >= len(CLASSES):
        raise DataSetError(f"{path}: is no file of CIFAR-10's binary version; expected {LAYOUT}")
    return values.reshape(-1, _RECORD)


CIFAR10 = DataSet("cifar10", "CIFAR-10", "semantic", _load)
