"""One score for a picture: alone, in any batch, on any replica, after a restart, over HTTP, in process and offline."""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from infra.local.cluster import Cluster
from infra.local.deploy import deploy, submit
from o2n.calibration import decide
from o2n.category import VersionRef
from o2n.client import Client
from o2n.errors import OverloadedError
from o2n.images import Picture, encode_png
from o2n.store import CategoryStore
from o2n.triplet import TripletScorer
from serve.app import MAX_DEADLINE_SECONDS
from tests.faults.clients import replicas_of
from tests.helpers import QUICK, checks, stripes, write

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]

MAKERS = {"checks": checks, "stripes": stripes}
# Minutes with 500 of them: O2N_SAME_SCORE_PICTURES=500.
COUNT = int(os.environ.get("O2N_SAME_SCORE_PICTURES", "80"))
PICTURES: list[tuple[str, Picture]] = [
    (name, MAKERS[name](1000 + number)) for number in range(COUNT // 2) for name in MAKERS
]
DEPLOYMENTS = ("Encoder", "Personalizer", "NormalScorer", "TextScorer", "Gateway")
# The sums of one thread are cut at the same places everywhere, but kernels are chosen by the processor and its caches:
# between processes this is promised, in units of the branches, and the very bits within one.
AGREEMENT = 1e-6


@dataclass(frozen=True)
class Answer:
    version: str
    values: tuple[float, float, float, float]
    is_anomalous: bool


@pytest.fixture(scope="module")
def scorer(published: CategoryStore) -> Iterator[TripletScorer]:
    """With one thread, as Ray gives to its workers."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield TripletScorer(QUICK, published)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def refs(published: CategoryStore) -> dict[str, VersionRef]:
    return {name: published.current(name) for name in MAKERS}


@pytest.fixture(scope="module")
def in_process(
    scorer: TripletScorer, published: CategoryStore, refs: dict[str, VersionRef]
) -> Callable[[int], list[Answer]]:
    """What the library answers in batches of a given size."""

    def score(batch: int) -> list[Answer]:
        scores = scorer.score([picture for _, picture in PICTURES], [refs[name] for name, _ in PICTURES], batch)
        return [
            Answer(
                score.ref.version,
                (score.score, score.s_p, score.s_n, score.s_text),
                decide(score.score, published.calibration(score.ref), 0.05).is_anomalous,
            )
            for score in scores
        ]

    return score


@pytest.fixture(scope="module")
def alone(in_process: Callable[[int], list[Answer]]) -> list[Answer]:
    return in_process(1)


@pytest.mark.parametrize("batch", [2, 7, 16])
def test_in_any_batch(in_process: Callable[[int], list[Answer]], alone: list[Answer], batch: int) -> None:
    assert in_process(batch) == alone


@pytest.mark.slow
def test_on_any_replica_and_after_a_restart(own_cluster: Cluster, quick_profile: str, alone: list[Answer]) -> None:
    url, first = deploy_two_of_each(own_cluster, quick_profile)
    assert_same(over_http(url), alone)
    assert own_cluster.run("serve", "shutdown", "-y").returncode == 0
    url, second = deploy_two_of_each(own_cluster, quick_profile)
    assert not first & second
    assert_same(over_http(url), alone)


def test_offline(cluster: Cluster, quick_profile: str, alone: list[Answer], tmp_path: Path) -> None:
    for wanted in MAKERS:
        write(tmp_path / "in" / wanted / "test" / "new", [picture for name, picture in PICTURES if name == wanted])
    out = str(tmp_path / "out")
    options = ("--tree", str(tmp_path / "in"), "--output", out, "--profile", quick_profile)
    submit(cluster, "jobs/score_images.py", *options)
    rows = sorted(pq.read_table(out).to_pylist(), key=lambda row: (Path(row["path"]).name, row["category"]))
    found = [
        Answer(row["version"], (row["score"], row["s_p"], row["s_n"], row["s_text"]), row["is_anomalous"])
        for row in rows
    ]
    assert_same(found, alone)


def deploy_two_of_each(cluster: Cluster, profile: str) -> tuple[str, set[int]]:
    """The service's URL and the processes of its replicas, once all are there; it is ready with one of each."""
    url = deploy(cluster, profile=profile, replicas=2, deadline_seconds=MAX_DEADLINE_SECONDS)
    give_up = time.monotonic() + 300
    while any(len(replicas_of(cluster, name)) < 2 for name in DEPLOYMENTS):
        assert time.monotonic() < give_up, "not every deployment has two replicas"
        time.sleep(1)
    return url, {pid for name in DEPLOYMENTS for pid in replicas_of(cluster, name)}


def over_http(url: str) -> list[Answer]:
    """Requests of one, two and seven pictures, several at a time, so that they meet in the branches' batches."""
    requests: dict[str, list[list[int]]] = {name: [] for name in MAKERS}
    for name in MAKERS:
        own = [index for index, (category, _) in enumerate(PICTURES) if category == name]
        while own:
            requests[name] += [own[:1], own[1:3], own[3:10]]
            own = own[10:]
    found: list[Answer | None] = [None] * len(PICTURES)

    def send(name: str, indexes: list[int]) -> None:
        for attempt in range(20):
            with suppress(OverloadedError):
                scored = client.score(name, [encode_png(PICTURES[index][1]) for index in indexes])
                break
            time.sleep(attempt)
        for index, one in zip(indexes, scored, strict=True):
            found[index] = Answer(one.version, (one.score, one.s_p, one.s_n, one.s_text), one.is_anomalous)

    with Client(url, timeout=200) as client, ThreadPoolExecutor(6) as pool:
        waiting = [
            pool.submit(send, name, part)
            for parts in zip(*requests.values(), strict=True)
            for name, part in zip(requests, parts, strict=True)
        ]
        for done in waiting:
            done.result()
    return [found_one for found_one in found if found_one is not None]


def assert_same(found: list[Answer], expected: list[Answer]) -> None:
    assert len(found) == len(expected)
    apart = max(
        abs(a - b)
        for one, other in zip(found, expected, strict=True)
        for a, b in zip(one.values, other.values, strict=True)
    )
    unequal = sum(one.values != other.values for one, other in zip(found, expected, strict=True))
    print(f"{len(found)} pictures, {unequal} of them not the same bits, apart by at most {apart:.1e}")
    assert apart <= AGREEMENT
    for one, other in zip(found, expected, strict=True):
        assert (one.version, one.is_anomalous) == (other.version, other.is_anomalous)
