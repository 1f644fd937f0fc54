"""The whole evaluation: which units there are, and running those whose outcome is not known yet, on Ray."""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache as cached
from itertools import groupby
from pathlib import Path
from typing import Any

import ray
from pydantic import ValidationError

from o2n.data.datasets.base import DataSet, LabelledCategory
from o2n.errors import O2NError, cause_of
from o2n.evaluation.protocol import OURS, Unit, UnitOutcome, asked_parts, build, digest, pool_file, revision, run
from o2n.evaluation.shots import capped, hold_to, kept_draw
from o2n.files import file_digest, replacing
from o2n.profiles import Profile

# What the paper gives its pool to (figure 4), and PaDiM, which its text names too.
POOLED = ("patchcore", "regad", "winclip", "inctrl", "padim")
LOSSES = 3  # workers that a unit may take with it before it is not run again
SHOWN = 1  # anomalous queries of a category whose maps are kept for the sheets, of the first draw with the most shots


@dataclass(frozen=True)
class Protocol:
    """The protocol: shots and draws, the most queries of a category, the side at which maps are compared, the size of
    the pool for other methods (0: no figure 4), and the numbers of prompts of table 5, measured at the most shots."""

    shots: tuple[int, ...] = (2, 4, 8)
    draws: int = 5
    queries: int | None = None
    pixels: int = 256
    pool: int = 100
    prompts: tuple[int, ...] = (0, 1, 10)


@dataclass(frozen=True)
class PlannedUnit:
    """A unit and the profile it is run with, where its outcome is kept and where its pool is, and the revision of its
    method that the file is of."""

    unit: Unit
    profile: Profile
    file: Path
    pool: Path | None
    revision: str

    def outcome(self) -> UnitOutcome | None:
        """What it came to, if that is known; a file that was not written to its end counts as none, and so does one
        without a part that the unit is to have, as it was written before that was measured."""
        try:
            outcome = UnitOutcome.model_validate_json(self.file.read_bytes())
        except (OSError, ValidationError):
            return None
        # Two draws may choose the same references, and share the file.
        outcome = outcome.model_copy(update={"draw": self.unit.draw})
        return outcome if asked_parts(self.unit, self.profile) <= outcome.parts.keys() else None


def plan(
    datasets: Iterable[tuple[DataSet, list[LabelledCategory]]],
    methods: Mapping[str, str],
    settings: Protocol,
    profile: Profile,
    identity: str,
    cache: Path,
) -> list[PlannedUnit]:
    """All units, draw by draw, so that what is done when a run is cut off makes whole tables of fewer draws.

    Args: methods: their names and revisions.

    Raises:
        DataSetError: a category with too few good pictures, a draw that does not fit it, or pictures that are not those
            that `cache` has the outcomes of.
    """
    runs = []
    digest_of = cached(file_digest)  # many pictures may be in one file
    loaded = [(dataset, category) for dataset, categories in datasets for category in categories]
    for number in range(settings.draws):
        for dataset, category in loaded:
            queries = capped(category.queries, settings.queries, f"{dataset.name}/{category.name}")
            draw = kept_draw(cache / "draws", dataset.name, category, number, max(settings.shots))
            asked = (*queries, *draw.of(category, max(settings.shots)))
            hold_to(cache / "pictures" / dataset.name / f"{category.name}.json", asked, digest_of)
            for shots in settings.shots:
                references = draw.of(category, shots)
                most = shots == max(settings.shots)
                for method, pool in _variants(list(methods), settings.pool):
                    unit = Unit(
                        dataset.name,
                        category.name,
                        category.object_word,
                        shots,
                        number,
                        method,
                        references,
                        queries,
                        settings.pixels,
                        pool,
                        settings.prompts if most and method == OURS else (),
                        SHOWN if most and number == 0 and not (pool and method != OURS) else 0,
                    )
                    written = methods[method] if method == OURS or not pool else f"{methods[method]} {methods[OURS]}"
                    file = cache / "outcomes" / f"{digest(unit, profile, identity, written)}.json"
                    shared = pool_file(cache, unit, profile, identity, methods[OURS]) if pool else None
                    runs.append(PlannedUnit(unit, profile, file, shared, methods[method]))
    return runs


def complete(runs: Sequence[PlannedUnit], in_flight: int, gpus: float = 0.0) -> Iterator[tuple[PlannedUnit, str]]:
    """Run the units whose outcome is not known, `in_flight` at most at a time; yields each with its error, or "".

    A unit that a worker's death takes down is run again, `LOSSES` times at most. In each draw pools come before who
    uses them.
    """

    def order(one: PlannedUnit) -> tuple[int, bool]:
        return one.unit.draw, one.unit.method != OURS and one.pool is not None

    to_do = sorted(missing(runs), key=order)
    # No tasks: each that has a GPU gets a process of its own, which would load the models once more.
    hire = ray.remote(num_cpus=1, num_gpus=gpus)(_Worker).remote
    crew = [hire() for _ in range(min(in_flight, len(to_do)))]
    try:
        for _, phase in groupby(to_do, key=order):
            yield from _shared(phase, crew, hire)
    finally:
        for worker in crew:
            ray.kill(worker)


def missing(runs: Sequence[PlannedUnit]) -> list[PlannedUnit]:
    """Those whose outcome is not known, and those of known outcome whose pool is gone that one of these needs."""
    unknown = [one for one in runs if one.outcome() is None]
    needed = {one.pool for one in unknown if one.unit.method != OURS and one.pool and not one.pool.is_file()}
    return [one for one in runs if one.outcome() is None or (one.unit.method == OURS and one.pool in needed)]


class _Worker:
    """A process that runs units, one after the other."""

    def ready(self) -> str:
        return ""

    def run(self, one: PlannedUnit) -> str:
        return _run_one(one)


def _shared(runs: Iterable[PlannedUnit], crew: list[Any], hire: Callable[[], Any]) -> Iterator[tuple[PlannedUnit, str]]:
    """Each of `runs` on whichever of the crew is up and free; who dies is replaced, and its unit waits again."""
    left, losses, false_starts = deque(runs), Counter[Path](), 0
    idle: list[Any] = []
    waiting: dict[ray.ObjectRef, tuple[Any, PlannedUnit | None]] = {one.ready.remote(): (one, None) for one in crew}
    while left or any(run for _, run in waiting.values()):
        while left and idle:
            free, following = idle.pop(), left.popleft()
            waiting[free.run.remote(following)] = (free, following)
        (done,), _ = ray.wait(list(waiting), num_returns=1)
        worker, run = waiting.pop(done)
        try:
            error = ray.get(done)
            idle.append(worker)
            false_starts = 0
        except ray.exceptions.RayTaskError as failed:  # its process goes on
            error = cause_of(failed)
            idle.append(worker)
        except ray.exceptions.RayError as lost:
            error = cause_of(lost)
            ray.kill(worker)
            crew[crew.index(worker)] = replacement = hire()
            waiting[replacement.ready.remote()] = (replacement, None)
            if run is None:
                false_starts += not any(one for _, one in waiting.values())
                while left and false_starts > LOSSES * len(crew):
                    yield left.popleft(), f"no process can be started: {error}"
                continue
            losses[run.file] += 1
            if losses[run.file] <= LOSSES:
                left.append(run)
                continue
        if run:
            if not error and run.outcome() is None:
                error = f"its outcome is not in {run.file}: on several nodes --cache has to be a folder that all share"
            yield run, error


def _run_one(one: PlannedUnit) -> str:
    """On a worker; what a user can mend comes back in words, so that it never sinks the others."""
    try:
        if (here := revision(build(one.unit.method, one.profile))) != one.revision:
            return (
                f"{one.unit.method} of this node is not the one that was planned with ({here}, not {one.revision}): "
                "give all nodes one O2N_CACHE and the same models"
            )
        outcome = run(one.unit, one.profile, one.pool)
    except O2NError as error:
        return str(error)
    with replacing(one.file) as part:
        part.write_text(outcome.model_dump_json(), encoding="utf-8")
    return ""


def _variants(methods: Sequence[str], pool: int) -> list[tuple[str, int]]:
    """Each method as it is, and those of figure 4 once more with the pool."""
    ours = [(OURS, pool if any(name in POOLED for name in methods) else 0)] if OURS in methods else []
    others = [(name, 0) for name in methods if name != OURS]
    pooled = [(name, pool) for name in methods if ours and pool and name in POOLED]
    return [*ours, *others, *pooled]
