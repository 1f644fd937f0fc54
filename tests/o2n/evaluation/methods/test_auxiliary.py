"""What was trained is kept by everything that decides it, and never trusted when it is damaged."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor

from o2n.data.procedural import EVALUATION, TRAINING, VALIDATION
from o2n.evaluation.methods.auxiliary import BAD, GOOD, PROCEDURAL, kept


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("O2N_CACHE", str(tmp_path / "not yet there"))
    return tmp_path / "not yet there"


def counting() -> tuple[Callable[[], dict[str, Tensor]], list[int]]:
    calls: list[int] = []

    def train() -> dict[str, Tensor]:
        calls.append(1)
        return {"weight": torch.full((3,), float(len(calls)))}

    return train, calls


def test_the_same_settings_are_trained_once(folder: Path) -> None:
    train, calls = counting()
    first, again, other = kept("m", "a", train), kept("m", "a", train), kept("m", "b", train)
    assert torch.equal(first["weight"], again["weight"])
    assert not torch.equal(first["weight"], other["weight"])
    assert len(calls) == 2
    assert not list(folder.glob("*.part"))


@pytest.mark.parametrize("damage", [b"", b"\x08\0\0\0\0\0\0\0garbage!", None])
def test_a_damaged_file_is_trained_anew(folder: Path, damage: bytes | None) -> None:
    train, calls = counting()
    kept("m", "a", train)
    (file,) = folder.iterdir()
    file.write_bytes(file.read_bytes()[:-4] if damage is None else damage)
    assert float(kept("m", "a", train)["weight"][0]) == 2
    assert len(calls) == 2


def test_auxiliary_pictures_are_of_training_families_alone() -> None:
    assert not set(TRAINING) & {*VALIDATION, *EVALUATION}
    assert str(len(TRAINING)) in PROCEDURAL.name
    for one in islice(PROCEDURAL.categories(), 2):
        assert (len(one.good), len(one.bad)) == (GOOD, BAD)
