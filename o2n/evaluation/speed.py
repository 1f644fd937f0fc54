"""How long the method takes on this machine, alone and with all its cores."""

import time
from dataclasses import dataclass
from statistics import median

from o2n.evaluation.tasks import Task
from o2n.foundation import load_foundation
from o2n.onboard import onboard
from o2n.profiles import Profile
from o2n.store import CategoryStore
from o2n.triplet import BATCH, TripletScorer


@dataclass(frozen=True)
class Speed:
    """Seconds: to onboard one category; to score one picture alone; to score one of a batch of 8 (medians)."""

    onboarding: float
    alone: float
    in_batch: float


def measure(task: Task, profile: Profile, store: CategoryStore, rounds: int = 5) -> Speed:
    """Onboard the task's category and score its first pictures; loading the models is not counted."""
    load_foundation(profile)
    begun = time.perf_counter()
    ref = onboard("speed", task.references, profile, store, task.object_word).ref
    onboarding = time.perf_counter() - begun
    scorer = TripletScorer(profile, store)
    scorer.score(task.queries[:1], [ref])  # loads the version

    def timed(count: int) -> float:
        begun = time.perf_counter()
        scorer.score(task.queries[:count], [ref] * count)
        return (time.perf_counter() - begun) / count

    return Speed(onboarding, median(timed(1) for _ in range(rounds)), median(timed(BATCH) for _ in range(rounds)))
