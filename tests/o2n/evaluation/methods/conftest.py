"""Methods that are trained on auxiliary pictures, trained on fewer of them, once for all tests."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from o2n.data.procedural import Category, draw
from o2n.evaluation.methods.auxiliary import Auxiliary, Labelled
from o2n.evaluation.methods.inctrl import InCTRL
from o2n.evaluation.methods.regad import RegAD
from tests.helpers import QUICK

FAMILIES = ("gear", "screw", "washer", "pill", "bottle", "board", "coin", "button", "key", "fuse", "flange", "wheel")


def _few() -> Iterator[Labelled]:
    for family in FAMILIES:
        category = Category(family, 1)
        pictures = list(draw(category, 14, 6, 0).pictures)
        yield Labelled(category.word, pictures[:14], pictures[14:])


FEW = Auxiliary("a dozen families, for tests", _few)
FEWER = Auxiliary("two families, where what is learned does not matter", lambda: islice(_few(), 2))


@pytest.fixture(scope="session")
def kept_at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where what was trained is kept."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("kept")
        patch.setenv("O2N_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def regad(kept_at: Path) -> RegAD:
    return RegAD(QUICK, FEW, steps=150)


@pytest.fixture(scope="session")
def inctrl(kept_at: Path) -> InCTRL:
    return InCTRL(QUICK, FEW)
