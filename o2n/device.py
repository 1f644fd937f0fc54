"""What models compute on: which device it is, and what it is called."""

import os
import platform
from contextlib import suppress
from pathlib import Path

import torch

from o2n.errors import FoundationError, cause_of
from o2n.settings import get_settings


def pick_device() -> torch.device:
    """`O2N_DEVICE` if set, else CUDA where there is one, else the CPU.

    Raises:
        FoundationError: it cannot be used.
    """
    wanted = get_settings().device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros(0, device=wanted).device
    except (RuntimeError, AssertionError) as error:
        raise FoundationError(f"device {wanted!r} (O2N_DEVICE) cannot be used: {cause_of(error)}; try 'cpu'") from None


def processor() -> str:
    """What scoring will compute on, as its maker calls it: a GPU, or the CPU and how many cores of it are here."""
    chosen = pick_device()
    if chosen.type == "cuda":
        return torch.cuda.get_device_name(chosen)
    name = platform.processor() or platform.machine()
    with suppress(OSError):  # Linux alone has it, and there Python knows no more than the architecture
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {os.cpu_count()} cores"


def describe_machine(device: torch.device) -> str:
    """What stages run on, in words: times on two machines of one description can be compared."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{platform.machine()} {device.type}, {threads} thread{'s' * (threads != 1)}"
