"""What the service counts and times: every metric of O2N is defined here once, and so is how they are read.

Every process that records one hands it to the agent of its node every 10 seconds (RAY_metrics_report_interval_ms), and
the agents offer it to Prometheus with `ray_` before the name, `_total` behind a counter's, and labels that say which
node and worker it came from. Replica counts, queues and waiting times are Ray's own: `ray_serve_*`.

A histogram reaches Prometheus as counts per bucket; Ray makes its sum of the buckets' middles, so it is only as exact
as they are narrow: ask for quantiles and shares rather than for means.
"""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import httpx
import ray
from ray.util.metrics import Counter, Gauge, Histogram

from o2n.loaded import Loaded

SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0]
# Ray takes no bound that is not positive: what is below the mean of the good pictures shares the first bucket with it.
# The lower half is fine enough for the paper's sum (0 to 2), the upper wide enough for deviations (0 to hundreds).
SCORES = [0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0, 50.0]
P_VALUES = [0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
# Halves, so that the middle of a bucket is a whole number and the mean is exact.
PICTURES = [number + 0.5 for number in range(17)] + [32.5, 64.5]

# Requests, as a gateway answers them, or a proxy in its place.
REQUESTS = Counter(
    "o2n_requests",
    "Requests by route, HTTP status and the code of the error, empty where there is none.",
    ("route", "status", "code"),
)
REQUEST_SECONDS = Histogram(
    "o2n_request_seconds", "From when a gateway has a request to its answer's last byte.", SECONDS, ("route",)
)
IN_FLIGHT = Gauge("o2n_pictures_in_flight", "Pictures admitted and not yet answered, per gateway.")
RETRIES = Counter("o2n_retries", "Pictures sent round again because a replica was lost under them.")

# Branches: encoder, personal, normal, text. With the waiting before: ray_serve_deployment_processing_latency_ms.
BATCH_SECONDS = Histogram("o2n_batch_seconds", "A branch's work on one batch.", SECONDS, ("branch",))
BATCH_PICTURES = Histogram("o2n_batch_pictures", "Pictures in a branch's batch.", PICTURES, ("branch",))

# What a branch keeps of the versions it was asked for: adapters, banks, text features.
CACHE_HITS = Counter("o2n_cache_hits", "Look-ups of a version that was there.", ("branch",))
CACHE_LOADS = Counter("o2n_cache_loads", "Versions loaded from the store.", ("branch",))
CACHE_EVICTIONS = Counter("o2n_cache_evictions", "Versions given up for others.", ("branch",))
CACHE_BYTES = Gauge("o2n_cache_bytes", "Memory of the versions kept, per replica.", ("branch",))
REFUSED_VERSIONS = Counter("o2n_refused_versions", "Published versions that do not load; the one before serves on.")

# What was found. A good picture's p-values are spread evenly over their values, whatever the branches' units:
# where most are small, the pictures are no longer what the version was calibrated on.
SCORES_GIVEN = Histogram("o2n_scores", "Scores given, by category.", SCORES, ("category",))
P_VALUES_GIVEN = Histogram("o2n_p_values", "p-values given, by category.", P_VALUES, ("category",))
DECISIONS = Counter("o2n_decisions", "Pictures called normal or anomalous, by category.", ("category", "decision"))

METRICS: tuple[Counter | Gauge | Histogram, ...] = (
    REQUESTS,
    REQUEST_SECONDS,
    IN_FLIGHT,
    RETRIES,
    BATCH_SECONDS,
    BATCH_PICTURES,
    CACHE_HITS,
    CACHE_LOADS,
    CACHE_EVICTIONS,
    CACHE_BYTES,
    REFUSED_VERSIONS,
    SCORES_GIVEN,
    P_VALUES_GIVEN,
    DECISIONS,
)

# A category costs some 40 series per gateway, and Prometheus keeps each for as long as its gateway runs. So the first
# ones that a gateway scores have their names, and all others share one; the log has the score of every picture.
NAMED_CATEGORIES = 256
OTHER_CATEGORIES = "(other)"

EXPORTED = ("ray_o2n_", "ray_serve_")
AGENT_TIMEOUT_SECONDS = 5.0

_named: set[str] = set()


def record_score(category: str, score: float, p_value: float, is_anomalous: bool) -> None:
    """One picture's answer, under its category's name if there is room for it."""
    label = category_label(category)
    SCORES_GIVEN.observe(score, {"category": label})
    P_VALUES_GIVEN.observe(p_value, {"category": label})
    DECISIONS.inc(tags={"category": label, "decision": "anomalous" if is_anomalous else "normal"})


def category_label(category: str) -> str:
    """The name of each of the first `NAMED_CATEGORIES` that this process scores; of all others `OTHER_CATEGORIES`."""
    if len(_named) < NAMED_CATEGORIES:
        _named.add(category)
    return category if category in _named else OTHER_CATEGORIES


@contextmanager
def batch(branch: str, pictures: int) -> Iterator[None]:
    """Times a branch's work on a batch."""
    begun = perf_counter()
    try:
        yield
    finally:
        BATCH_SECONDS.observe(perf_counter() - begun, {"branch": branch})
        BATCH_PICTURES.observe(pictures, {"branch": branch})


class Cache:
    """Tells the counts of what a branch keeps: how much each has grown since it was told last."""

    def __init__(self, branch: str, loaded: Loaded[Any]) -> None:
        self._branch, self._loaded = {"branch": branch}, loaded
        self._told: dict[Counter, int] = {}

    def tell(self) -> None:
        """Once every few seconds is enough."""
        kept = self._loaded
        counts = {CACHE_HITS: kept.hits, CACHE_LOADS: kept.loads, CACHE_EVICTIONS: kept.evictions}
        for counter, count in counts.items():
            if grown := count - self._told.get(counter, 0):
                counter.inc(grown, self._branch)
        self._told = counts
        CACHE_BYTES.set(kept.nbytes, self._branch)


async def exposition() -> str:
    """The metrics of O2N and of Ray Serve on all nodes, in Prometheus' text format.

    For those who reach the service but not the agents of its nodes. An agent that does not answer is left out.
    """
    nodes = await asyncio.to_thread(ray.nodes)
    urls = [
        f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics" for node in nodes if node["Alive"]
    ]
    async with httpx.AsyncClient(timeout=AGENT_TIMEOUT_SECONDS, trust_env=False) as client:
        answers = await asyncio.gather(*map(client.get, urls), return_exceptions=True)
    return merge(answer.text for answer in answers if isinstance(answer, httpx.Response) and answer.is_success)


def merge(texts: Iterable[str]) -> str:
    """Several texts in Prometheus' format -> one, with each metric's help and type once and its samples together."""
    metrics: dict[str, list[str]] = {}
    described: set[tuple[str, str]] = set()
    for text in texts:
        name = ""
        for line in text.splitlines():
            if line.startswith("# "):
                _, what, name, *_ = line.split(" ")
                if (what, name) in described:
                    continue
                described.add((what, name))
            if name.startswith(EXPORTED):
                metrics.setdefault(name, []).append(line)
    return "".join(f"{line}\n" for lines in metrics.values() for line in lines)
