"""MNIST (LeCun et al., 1998) in its four published files, or its test pictures alone; each digit against the others."""

import functools
import gzip
import zlib
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from o2n.data.datasets.base import (
    GOOD,
    DataSet,
    LabelledCategory,
    Sample,
    existing,
    one_against_rest,
    quarter_for_testing,
)
from o2n.errors import DataSetError
from o2n.images import Picture

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WORDS = tuple(f"digit {name}" for name in DIGITS)
LAYOUT = (
    "train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz and t10k-labels-idx1-ubyte.gz"
)
T10K_LAYOUT = "t10k-images-idx3-ubyte.gz and t10k-labels-idx1-ubyte.gz"

_PICTURES, _LABELS = 2051, 2049  # how an IDX file begins


def _load(root: Path) -> list[LabelledCategory]:
    return one_against_rest(DIGITS, WORDS, _by_digit(root, "train", LAYOUT), _by_digit(root, "t10k", LAYOUT))


def _load_t10k(root: Path) -> list[LabelledCategory]:
    """A quarter of each digit is asked; shots are drawn from the rest."""
    kept, asked = zip(*(quarter_for_testing(digit) for digit in _by_digit(root, "t10k", T10K_LAYOUT)), strict=True)
    return one_against_rest(DIGITS, WORDS, kept, asked)


def read_part(root: Path, part: str, layout: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The pictures, uint8 (N, 28, 28), and labels, uint8 (N,), of "train" or "t10k".

    Raises:
        DataSetError: a file is missing, or not what it should be; the message has `layout`.
    """
    path = existing(_pictures_of(root, part), layout)
    labels = _read(existing(root / f"{part}-labels-idx1-ubyte.gz", layout), _LABELS)
    pictures = _read(path, _PICTURES)
    if len(pictures) != len(labels):
        raise DataSetError(f"{path}: has another number of pictures than its labels; expected {layout}")
    return pictures, labels


def _by_digit(root: Path, part: str, layout: str) -> list[list[Sample]]:
    _, labels = read_part(root, part, layout)
    path = _pictures_of(root, part)

    def sample(row: np.intp) -> Sample:
        return Sample(f"{path.name}#{row}", GOOD, partial(_picture, path, row), files=(path,))

    return [[sample(row) for row in np.flatnonzero(labels == digit)] for digit in range(10)]


def _pictures_of(root: Path, part: str) -> Path:
    return root / f"{part}-images-idx3-ubyte.gz"


def _picture(path: Path, row: np.intp) -> Picture:
    return np.repeat(_read(path, _PICTURES)[row][..., None], 3, axis=-1)


@functools.lru_cache(maxsize=4)
def _read(path: Path, magic: int) -> NDArray[np.uint8]:
    """An IDX file of bytes: four bytes of magic number, whose last is the rank, then the sizes, then the values."""
    try:
        data = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataSetError(f"{path}: is no gzip file ({error}); fetch it anew") from None
    rank = magic % 256
    header = np.frombuffer(data, ">i4", 1 + rank) if len(data) >= 4 + 4 * rank else np.zeros(1 + rank, ">i4")
    values = np.frombuffer(data, np.uint8, offset=min(len(data), header.nbytes))
    if header[0] != magic or values.size != np.prod(header[1:].astype(np.int64)):
        raise DataSetError(f"{path}: is not the IDX file that it should be; fetch it anew")
    return values.reshape(header[1:])


MNIST = DataSet("mnist", "MNIST", "semantic", _load)
MNIST_T10K = DataSet("mnist-t10k", "MNIST, test pictures alone", "semantic", _load_t10k)
