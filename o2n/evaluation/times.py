"""How long each method takes on this machine, measured while nothing else of the evaluation runs."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from pydantic import BaseModel, ValidationError

from o2n.device import processor
from o2n.evaluation.plan import PlannedUnit
from o2n.evaluation.protocol import ALL_METHODS, OURS, Unit, build
from o2n.evaluation.published import published
from o2n.evaluation.tables import Row, Table
from o2n.files import replacing
from o2n.foundation import load_foundation
from o2n.images import Picture
from o2n.profiles import Profile

BATCH = 8
ROUNDS = 5


class Times(BaseModel):
    """Seconds: to fit `references` pictures; to score one picture alone; to score one of a batch of `BATCH` (medians).
    Loading the models is not counted. processor: what they were measured on."""

    method: str
    title: str
    references: int
    fit: float
    alone: float
    in_batch: float
    processor: str


def measure(unit: Unit, profile: Profile) -> Times:
    """Fit the unit's method to its references and score its first `BATCH` queries.

    Raises:
        O2NError: a picture or a model that cannot be used.
    """
    load_foundation(profile)
    references, queries = ([sample.read() for sample in some] for some in (unit.references, unit.queries[:BATCH]))
    built = build(unit.method, profile)
    begun = time.perf_counter()
    fitted = built.fit(references, unit.object_word)
    fit = time.perf_counter() - begun

    def timed(pictures: list[Picture]) -> float:
        fitted.score(pictures)
        spent = []
        for _ in range(ROUNDS):
            begun = time.perf_counter()
            fitted.score(pictures)
            spent.append(time.perf_counter() - begun)
        return median(spent) / len(pictures)

    return Times(
        method=unit.method,
        title=built.name,
        references=len(references),
        fit=fit,
        alone=timed(queries[:1]),
        in_batch=timed(queries),
        processor=processor(),
    )


def take_times(runs: Sequence[PlannedUnit], processor: str, timed: Callable[[Unit], Times | None]) -> list[Times]:
    """Of each method on the first of its `runs`, one after the other. What is known of `processor` is not measured
    again; what is known of another stands where `timed` gives None."""
    found = []
    plain = [one for one in runs if one.unit.method == OURS or not one.unit.pool]
    for run in {one.unit.method: one for one in reversed(plain)}.values():
        file = run.file.parent.parent / "times" / run.file.name
        known = _known(file)
        if (known is None or known.processor != processor) and (fresh := timed(run.unit)):
            known = fresh
            with replacing(file) as part:
                part.write_text(known.model_dump_json(), encoding="utf-8")
        if known:
            found.append(known)
    return sorted(found, key=lambda one: list(ALL_METHODS).index(one.method))


def times_table(found: Sequence[Times]) -> Table:
    """One row for each method."""
    rows = []
    for one in found:
        paper = published("time", "", None, one.method, "ms")
        rows.append(
            Row(
                (one.title,),
                (
                    f"{one.fit:.2f} s",
                    f"{1000 * one.alone:.1f} ms",
                    f"{1000 * one.in_batch:.1f} ms",
                    f"{paper.mean:.0f} ms, here {1000 * one.alone / paper.mean:.0%} of it" if paper else None,
                ),
            )
        )
    references = found[0].references if found else 0
    processors = " and ".join(sorted({one.processor for one in found}))
    return Table(
        "times",
        "Time of each method",
        f"On one core, or one GPU, of {processors}, medians of five; models are loaded before. The paper's are on an "
        "RTX 4090, that of One-to-Normal with one prompt; with three it is 476 to 589 ms.",
        ("method", f"fit, {references} references", "one picture", f"one of a batch of {BATCH}", "paper, one picture"),
        tuple(rows),
        best=False,
    )


def _known(file: Path) -> Times | None:
    try:
        return Times.model_validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return None
