"""Offline scoring on a real cluster, its driver and its nodes killed: no row lost, none twice, little done again."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from PIL import Image

from infra.local.cluster import Cluster, kill_node, local_cluster
from o2n.inputs import Inputs
from o2n.offline_plan import Request
from o2n.offline_run import Run, open_run
from o2n.onboard import onboard
from o2n.store import CategoryStore
from o2n.triplet import TripletScorer
from tests.helpers import checks, wait_until
from tests.toy import SIDE, toy_profile

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(1200)]

# Twenty kills of what keeps a run's scores are in tests/o2n/test_offline_run.py, where coming up again takes no models.
KILLS, PICTURES = 6, 6000


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> tuple[TripletScorer, CategoryStore]:
    """Models that score a picture in milliseconds, and a store with one category."""
    folder = tmp_path_factory.mktemp("toy")
    profile, store = toy_profile(folder / "models"), CategoryStore((folder / "store").as_uri())
    onboard("checks", [checks(0), checks(1)], profile, store)
    return TripletScorer(profile, store), store


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("originals")
    for seed in range(16):
        Image.fromarray(checks(seed, SIDE, SIDE)).save(folder / f"{seed}.png")
    return [folder / f"{seed}.png" for seed in range(16)]


def planned(
    toy: tuple[TripletScorer, CategoryStore], originals: list[Path], folder: Path, pictures: int, workers: int
) -> Run:
    """A run over as many files, each of which is one of a few pictures."""
    (folder / "new").mkdir()
    for index in range(pictures):
        os.link(originals[index % len(originals)], folder / "new" / f"{index:05}.png")
    scorer, store = toy
    wanted = Inputs(folders=(str(folder / "new"),), category="checks")
    request = Request(inputs=wanted, store=store.url, profile=scorer.profile, rate=0.05)
    return open_run(str(folder / "scores"), request, store, workers)


def check_scores(run: Run, toy: tuple[TripletScorer, CategoryStore], originals: list[Path]) -> None:
    """Every picture has one row, and in it the library's score."""
    scorer, store = toy
    pictures = [checks(seed, SIDE, SIDE) for seed in range(len(originals))]
    expected = [score.score for score in scorer.score(pictures, [store.current("checks")] * len(pictures))]
    rows = pq.read_table(run.output).to_pylist()
    assert [Path(row["path"]).name for row in rows] == [f"{index:05}.png" for index in range(run.plan.pictures)]
    for index, row in enumerate(rows):
        assert row["score"] == pytest.approx(expected[index % len(expected)], abs=1e-6)


# One process, with everything imported, forks the drivers. They die as they come up, while pictures are scored, in the
# middle of the write of a shard, or right after it. What is scored is noted by whoever scores it.
DRIVERS = """
import os, random, signal, sys, threading
from pathlib import Path
import ray
from o2n import offline, offline_run as runs
from o2n.objects import LocalObjects, open_objects
from o2n.store import CategoryStore

output, log, address, kills = sys.argv[1:]

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

class Noted(offline._Scorer):
    def __call__(self, table):
        with open(log, "a") as file:
            file.write("x" * table.num_rows)
        return super().__call__(table)

def live(kill):
    chance = random.Random(kill)
    run = runs.Run(output, runs._plan(open_objects(output))[0])
    put, left, moment = LocalObjects.put, chance.randint(1, 30), kill and kill % 4

    def put_or_die(self, key, data):
        nonlocal left
        left -= 1
        if left == 0 and moment == 1:
            Path.replace = die
        if left == 0 and moment == 2:
            threading.Timer(chance.uniform(0, 0.2), die).start()
        put(self, key, data)
        if left == 0 and moment == 3:
            die()

    LocalObjects.put = put_or_die
    if kill and moment == 0:
        threading.Timer(chance.uniform(0.5, 5), die).start()
    offline._Scorer = Noted
    ray.init(address=address, logging_level="error", log_to_driver=False)
    for kept in offline.score_run(run, CategoryStore(run.plan.request.store)):
        pass

for kill in range(int(kills), -1, -1):  # the last one lives
    if os.fork() == 0:
        live(kill)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.wait()[1]), len(list(Path(output).glob("part-*"))), flush=True)
"""


def test_killed_drivers_lose_nothing_double_nothing_and_cost_little(
    own_cluster: Cluster, toy: tuple[TripletScorer, CategoryStore], originals: list[Path], tmp_path: Path
) -> None:
    run = planned(toy, originals, tmp_path, PICTURES, workers=1)
    log = tmp_path / "log"
    done = own_cluster.run("python", "-c", DRIVERS, run.output, str(log), own_cluster.address, str(KILLS))
    lives = [line.split() for line in done.stdout.splitlines()]
    print(lives, log.stat().st_size)
    assert [code for code, _ in lives] == ["-9"] * KILLS + ["0"], done.stdout + done.stderr
    assert sum(int(kept) < len(run.plan.shards()) for _, kept in lives) == KILLS
    assert PICTURES <= log.stat().st_size <= 1.05 * PICTURES
    check_scores(run, toy, originals)


def test_a_killed_node_loses_nothing_and_doubles_nothing(
    toy: tuple[TripletScorer, CategoryStore], originals: list[Path], tmp_path: Path
) -> None:
    run = planned(toy, originals, tmp_path, PICTURES // 2, workers=2)
    request = run.plan.request
    profile = tmp_path / "profile.json"
    profile.write_text(request.profile.model_dump_json())
    # As on Kubernetes, where nothing but the cluster's own affairs is on the head; each of the others has one worker.
    with local_cluster(cpus=0, store=request.store) as cluster:
        nodes = [cluster.add_node(name, cpus=1) for name in ("one", "two")]
        options = ["--output", run.output, "--store", request.store, "--profile", str(profile), "--workers", "2"]
        job = subprocess.Popen(
            [sys.executable, "jobs/score_images.py", "--category", "checks", *request.inputs.folders, *options],
            env={**cluster.environment, "RAY_ADDRESS": cluster.address},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        wait_until(
            lambda: (len(run.done()) > 20 and workers_of(nodes[0]) == workers_of(nodes[1]) == 1) or job.poll(),
            "work on both nodes",
        )
        kill_node(nodes[0])
        kept = len(run.done())
        output = job.communicate()[0]
    print(f"{kept} of {len(run.plan.shards())} shards were kept when a node was killed")
    assert job.returncode == 0, output
    assert kept < len(run.plan.shards())
    (summary,) = [line for line in output.splitlines() if line.startswith("{")]
    assert json.loads(summary)["errors"] == 0
    check_scores(run, toy, originals)


def workers_of(node: psutil.Process) -> int:
    """How many scoring actors a node has."""
    found = 0
    for process in node.children(recursive=True):
        with suppress(psutil.Error):
            found += (process.cmdline() or [""])[0].startswith("ray::MapWorker")
    return found
