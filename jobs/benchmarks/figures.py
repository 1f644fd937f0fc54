"""What all benchmarks share: the category they draw, the machine they are on, ratios, and where figures are kept."""

import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch

from o2n.data.defects import EVALUATION_DEFECTS
from o2n.data.procedural import Category, draw
from o2n.device import processor
from o2n.evaluation.tasks import STYLE, Task
from o2n.profiles import Profile

SHOTS = 4

json_option = click.option(
    "--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Keep all figures here."
)


def make_task(family: str, pictures: int, profile: Profile) -> Task:
    """References and queries, half of them spoilt, of a category that no model was trained on."""
    category, size = Category(family, STYLE), profile.diffusion.resolution
    references = draw(category, SHOTS, 0, 0, size=size)
    shown = draw(category, pictures - pictures // 2, pictures // 2, 1, defects=EVALUATION_DEFECTS, size=size)
    return Task("", family, category.word, list(references.pictures), list(shown.pictures), shown.labels)


def seconds_of(call: Callable[..., object], *arguments: object) -> float:
    begun = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - begun


def ratio(upper: list[float], lower: list[float]) -> float:
    return round(median(u / v for u, v in zip(upper, lower, strict=True)), 3)


def shares(values: dict[str, float]) -> dict[str, float]:
    total = sum(values.values())
    return {name: value / total for name, value in values.items()}


def machine() -> dict[str, Any]:
    return {
        "processor": processor(),
        "load": round(os.getloadavg()[0], 2),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def machine_line(machine: dict[str, Any]) -> str:
    return f"{machine['processor']}, load {machine['load']}, torch {machine['torch']} with {machine['threads']} threads"


def keep(file: Path | None, report: dict[str, Any]) -> None:
    if file:
        file.write_text(json.dumps(report, indent=1) + "\n")
