"""What onboarding many categories will take, from what it took before. Says what it rests on, and guesses nothing."""

import contextlib
from collections import defaultdict
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from o2n.category_worker import Outcome
from o2n.errors import O2NError
from o2n.making import STAGES
from o2n.profiles import Profile
from o2n.sources import Source
from o2n.store import CategoryStore

SAMPLE = 50  # versions that are looked at


@dataclass(frozen=True)
class Estimate:
    """Seconds until all are published, what their workers take up until then, and in words where that is from."""

    seconds: float
    worker_seconds: float
    core_hours: float
    gpu_hours: float
    workers: int
    rests_on: str

    def report(self) -> dict[str, Any]:
        return {name: round(value, 3) if isinstance(value, float) else value for name, value in asdict(self).items()}


def recorded(store: CategoryStore, profile: Profile, machine: str) -> tuple[dict[str, float], int]:
    """The median seconds of each stage in up to `SAMPLE` of a store's versions that were made with a profile on
    machines of a description, and how many those are; empty where no version has every stage's.

    Raises:
        StoreError: a store that cannot be read.
    """
    names = store.categories()
    seconds = defaultdict(list)
    versions = 0
    for name in names[:: max(1, len(names) // SAMPLE)]:
        with contextlib.suppress(O2NError):  # a version that is not whole tells nothing, and is not this run's business
            manifest = store.manifest(store.current(name))
            if manifest.machine == machine and _same(manifest.profile, profile):
                versions += 1
                for stage, value in manifest.seconds.items():
                    seconds[stage].append(value)
    if not set(STAGES) <= set(seconds):
        return {}, 0
    return {stage: median(seconds[stage]) for stage in STAGES}, versions


def estimate(
    sources: list[Source],
    previews: list[Outcome],
    stage_seconds: dict[str, float],
    rests_on: str,
    *,
    workers: int,
    cpus: float,
    gpus: float,
) -> Estimate:
    """What it takes to do what the previews say is missing.

    Args:
        stage_seconds: of every stage in `STAGES`, and of "loading" the models if that is to be counted.
        workers: how many categories will be side by side. cpus, gpus: what each takes.
    """
    drawn: set[str] = set()
    works = []
    for source, found in zip(sources, previews, strict=True):
        missing = list(found.missing)
        if "prior" in missing and source.word in drawn:
            missing.remove("prior")
        drawn.add(source.word)
        if missing:
            works.append(sum(stage_seconds[stage] for stage in missing))
    workers = max(1, min(workers, len(works)))
    loading = stage_seconds.get("loading", 0.0) if works else 0.0
    total = sum(works) + workers * loading
    longest = max(works, default=0.0)
    return Estimate(
        seconds=loading + max(longest, sum(works) / workers),
        worker_seconds=total,
        core_hours=total * cpus / 3600,
        gpu_hours=total * gpus / 3600,
        workers=workers,
        rests_on=rests_on,
    )


def _same(one: Profile, other: Profile) -> bool:
    return one.model_dump(exclude={"name"}) == other.model_dump(exclude={"name"})
