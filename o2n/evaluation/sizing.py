"""What a number of categories and of pictures a day take: a day's load through a queue and a cache of every branch.

A replica is simulated event by event: pictures arrive at random, their categories as unevenly as Zipf's law has it,
what waits is taken in one batch, and a category that is not in the cache (`loaded.py`) is read from the store first.
From it comes what one replica can do while 95 of 100 pictures get through it in time; a day's curve says how many are
needed, and when. Knows no models: times and sizes are measured elsewhere, or, where nothing could be, predicted.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from o2n.profiles import Profile

DAY_SECONDS = 86_400
# Pictures an hour beside the day's mean: a smooth peak of almost twice the mean in the afternoon, almost none at night.
DAY: tuple[float, ...] = tuple(1 + 0.9 * float(np.sin(2 * np.pi * (hour - 8) / 24)) for hour in range(24))
ZIPF = 1.0
# No replica is planned to be busier, and 95 of 100 pictures are to be through a branch by then.
BUSY, IN_TIME = 0.8, 1.0
# Versions of a category that the store holds: the one that serves and some before it.
VERSIONS = 5
# What Amazon promises for one prefix, and what of a network a replica may count on.
S3_GETS, S3_BYTES = 5500.0, 250e6
# Digests are verified and tensors parsed at about this speed.
PARSED = 500e6


@dataclass(frozen=True)
class Branch:
    """A kind of replica. seconds: of its core or GPU for one picture in a full batch; base: bytes that a replica holds
    without any category; held: those of one category in its cache, which has `budget`; unit: what it runs on."""

    name: str
    seconds: float
    base: float
    held: float = 0.0
    budget: float = 0.0
    batch: int = 8
    unit: str = "core"

    @property
    def load(self) -> float:
        """Seconds to read and parse a category."""
        return self.held / S3_BYTES + self.held / PARSED

    def room(self, categories: int) -> int:
        """How many of them a replica keeps."""
        return categories if not self.held else min(categories, int(self.budget / self.held))


@dataclass(frozen=True)
class Replica:
    """What one did at some rate. missed: share of pictures whose category had to be loaded; p95: seconds until a
    picture was through; busy: share of the time."""

    missed: float
    p95: float
    busy: float


@dataclass(frozen=True)
class Need:
    """Of one branch. replicas: at the peak; hours: of its cores or GPUs in a day, with as many as every hour needs;
    memory: bytes, all replicas at the peak; missed: as in Replica; gets: reads of the store per second at the peak."""

    branch: Branch
    replicas: int
    hours: float
    memory: float
    missed: float
    gets: float


@cache
def popularity(categories: int) -> NDArray[np.float64]:
    """The share of pictures that each category has, the most frequent one first."""
    weights = 1 / np.arange(1, categories + 1) ** ZIPF
    return weights / weights.sum()


def simulate(branch: Branch, rate: float, categories: int, pictures: int = 5_000) -> Replica:
    """One replica at `rate` pictures a second, its cache full of what is asked for most, as it is after a while."""
    rng = np.random.default_rng(0)
    arrivals = rng.exponential(1 / rate, pictures).cumsum()
    asked = rng.choice(categories, pictures, p=popularity(categories))
    kept = OrderedDict.fromkeys(reversed(range(branch.room(categories))))
    ready, missed = arrivals.copy(), 0
    for index, category in enumerate(asked.tolist()):
        if category in kept:
            kept.move_to_end(category)
            continue
        missed += 1
        # It is loaded before it joins a batch, so that nobody else waits for it.
        ready[index] += branch.load
        kept[category] = None
        if len(kept) > max(1, branch.room(categories)):
            kept.popitem(last=False)
    order = np.argsort(ready, kind="stable")
    ready, arrived = ready[order], arrivals[order]
    through = np.empty(pictures)
    free = spent = 0.0
    start = 0
    while start < pictures:
        begun = max(free, ready[start])
        end = min(start + branch.batch, max(start + 1, int(np.searchsorted(ready, begun, "right"))))
        # Parsing what is loaded takes this replica's core as well.
        took = (end - start) * (branch.seconds + missed / pictures * branch.held / PARSED)
        free, spent = begun + took, spent + took
        through[start:end] = free
        start = end
    return Replica(missed / pictures, float(np.quantile(through - arrived, 0.95)), spent / free)


@cache
def capacity(branch: Branch, categories: int) -> tuple[float, Replica]:
    """The most pictures a second that one replica gets through in time, and how it did at that rate."""
    low, high = 0.0, 1 / branch.seconds
    found = simulate(branch, high / 1000, categories)
    for _ in range(8):
        rate = (low + high) / 2
        tried = simulate(branch, rate, categories)
        # Who has to wait for a category to load does so at any rate: more replicas would not help.
        if tried.busy <= BUSY and tried.p95 <= IN_TIME + branch.load:
            low, found = rate, tried
        else:
            high = rate
    return max(low, high / 1000), found


def needed(branch: Branch, categories: int, pictures: float) -> Need:
    """Args: pictures: a day."""
    able, replica = capacity(branch, categories)
    hourly = [-(-share * pictures / DAY_SECONDS // able) for share in DAY]
    replicas = max(1, int(max(hourly)))
    peak = max(DAY) * pictures / DAY_SECONDS
    held = branch.base + branch.room(categories) * branch.held
    hours = sum(max(1.0, hour) for hour in hourly)
    return Need(branch, replicas, hours, replicas * held, replica.missed, replica.missed * peak)


def pointer_reads(categories: int, pictures: float, gateways: int) -> float:
    """Reads of `current.json` a second at the peak: every gateway reads that of a category once a second, if asked."""
    rates = popularity(categories) * max(DAY) * pictures / DAY_SECONDS / gateways
    return float(gateways * (1 - np.exp(-rates)).sum())


def bottleneck(needs: Sequence[Need], reads: float) -> str:
    """What gives way first when the load grows, in a few words."""
    gets = reads + sum(need.gets for need in needs)
    if gets > S3_GETS:
        return f"{gets:,.0f} reads of S3 a second, where one prefix has {S3_GETS:,.0f}"
    for need in sorted(needs, key=lambda need: -need.missed):
        if need.missed > 0.1:
            return f"{need.branch.name}: {100 * need.missed:.0f}% of pictures wait for their category to load"
    if all(need.replicas == 1 for need in needs):
        return "none: one replica of each will do"
    most = max(needs, key=lambda need: (need.branch.unit == "GPU", need.replicas))
    same = [need for need in needs if need.branch.unit == most.branch.unit]
    share = most.replicas / sum(need.replicas for need in same)
    return f"{most.branch.name}: {100 * share:.0f}% of the {most.branch.unit}s"


def bank_bytes(profile: Profile, references: int, grid: int, width: int) -> int:
    """Of a category's memory bank, float32 (N, L, G, D). Args: grid: patches along a side; width: D."""
    pictures = profile.pool.pictures + profile.pool.warps * references
    return pictures * len(profile.encoder.levels) * grid**2 * width * 4
