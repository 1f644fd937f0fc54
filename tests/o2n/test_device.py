"""What models compute on."""

import os
import platform

import pytest
import torch

from o2n.device import describe_machine, pick_device, processor
from o2n.errors import FoundationError


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("O2N_DEVICE", "cuda:99")
    with pytest.raises(FoundationError, match="O2N_DEVICE"):
        pick_device()


def test_times_of_as_many_threads_are_told_by_the_same_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("O2N_DEVICE", "cpu")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = describe_machine(pick_device())
        torch.set_num_threads(2)
        assert (one, describe_machine(pick_device())) == (
            f"{platform.machine()} cpu, 1 thread",
            f"{platform.machine()} cpu, 2 threads",
        )
    finally:
        torch.set_num_threads(before)


def test_a_processor_is_told_with_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("O2N_DEVICE", "cpu")
    assert processor().endswith(f", {os.cpu_count()} cores")
