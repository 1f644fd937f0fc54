"""The offline job beside the library: pictures a second of one and two workers and of the bare loop, in turns; and
memory over one long run."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import click
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tqdm import tqdm

from infra.local.memory import held_bytes
from jobs.benchmarks.figures import json_option, keep, machine, machine_line, make_task, ratio, seconds_of
from o2n.data.procedural import EVALUATION
from o2n.evaluation.tasks import Task
from o2n.images import encode_png
from o2n.inputs import Inputs
from o2n.offline_plan import Request
from o2n.offline_run import Run, open_run
from o2n.onboard import onboard
from o2n.options import profile_option
from o2n.profiles import Profile
from o2n.store import CategoryStore
from o2n.triplet import TripletScorer

JOB = Path(__file__).parents[1] / "score_images.py"


@click.command()
@click.option("--categories", default=2, show_default=True, type=click.IntRange(1, len(EVALUATION)))
@click.option("--pictures", default=320, show_default=True, help="Pictures of a run, shared out over the categories.")
@click.option("--rounds", default=3, show_default=True, help="Turns that the bare loop and each number of workers get.")
@click.option(
    "--long", "long_run", default=0, metavar="N", help="Score N pictures in one run of the job and watch its memory."
)
@json_option
@profile_option
def offline(
    categories: int, pictures: int, rounds: int, long_run: int, json_file: Path | None, profile: Profile
) -> None:
    """Throughput of one and two workers of the offline job beside the bare loop, each with one core; its memory."""
    torch.set_num_threads(1)  # as a worker has
    tasks = [make_task(family, max(2, pictures // categories), profile) for family in EVALUATION[:categories]]
    report: dict[str, Any] = {"machine": machine(), "profile": profile.name, "categories": categories}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = CategoryStore((folder / "store").as_uri())
        for one in tqdm(tasks, desc="onboarding", unit="category"):
            onboard(one.name, one.references, profile, store, one.object_word)
        if rounds:
            report |= {"pictures": pictures, "rounds": rounds, **_in_turns(tasks, store, profile, folder, rounds)}
        if long_run:
            report["long_run"] = _long_run(tasks, store, profile, folder, long_run)
    click.echo(_table(report))
    keep(json_file, report)


@dataclass(frozen=True)
class _Pace:
    """per_second: of all workers together, in the middle of a run; cpu: seconds of a core that a worker took for one
    picture."""

    per_second: float
    cpu: float


def _in_turns(tasks: list[Task], store: CategoryStore, profile: Profile, folder: Path, rounds: int) -> dict[str, Any]:
    import ray

    table = pa.table(
        {
            "bytes": [encode_png(query) for one in tasks for query in one.queries],
            "category": [one.name for one in tasks for _ in one.queries],
        }
    )
    pq.write_table(table, folder / "pictures.parquet", row_group_size=16)
    wanted = Inputs(parquet=str(folder / "pictures.parquet"), category_column="category")
    request = Request(inputs=wanted, store=store.url, profile=profile, rate=0.05)
    scorer = TripletScorer(profile, store)
    shown = [query for one in tasks for query in one.queries]
    refs = [store.current(one.name) for one in tasks for _ in one.queries]
    scorer.score(shown[:8], refs[:8])
    paces: dict[str, list[_Pace]] = defaultdict(list)
    # Room for two workers, however few cores there are.
    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="warning")
    try:
        for turn in tqdm(range(rounds), desc="rounds", unit="round"):
            before = time.process_time()
            taken = seconds_of(scorer.score, shown, refs)
            paces["bare"].append(_Pace(len(shown) / taken, (time.process_time() - before) / len(shown)))
            for workers in (1, 2):
                run = open_run(str(folder / f"scores-{turn}-{workers}"), request, store, workers)
                paces[str(workers)].append(_pace(run, store, workers))
    finally:
        ray.shutdown()
    rates = {name: [pace.per_second for pace in found] for name, found in paces.items()}
    cpu = {name: [pace.cpu for pace in found] for name, found in paces.items()}
    return {
        "pictures_per_second": {name: round(median(values), 2) for name, values in rates.items()},
        "cpu_ms_per_picture": {name: round(1000 * median(values), 2) for name, values in cpu.items()},
        "ratios": {
            # Round by round, because what else the machine does changes from one to the next.
            "one_worker_to_bare": ratio(rates["1"], rates["bare"]),
            "two_workers_to_one": ratio(rates["2"], rates["1"]),
            "bare_cpu_to_worker_cpu": ratio(cpu["bare"], cpu["1"]),
        },
    }


def _pace(run: Run, store: CategoryStore, workers: int) -> _Pace:
    """How fast a run is between a fifth and four fifths of its pictures: its start and its end are no pace."""
    from o2n.offline import score_run

    marks: list[tuple[int, float, float]] = []
    total = 0
    for kept in score_run(run, store, workers=workers):
        total += kept
        marks.append((total, time.perf_counter(), _cpu_of_workers()))
    inner = [mark for mark in marks if run.plan.pictures / 5 <= mark[0] <= run.plan.pictures * 4 / 5] or marks
    (first, begun, cpu_before), (last, ended, cpu_after) = inner[0], inner[-1]
    if first == last:  # a run too short to have a middle
        return _Pace(total / max(ended, 1e-9), float("nan"))
    return _Pace((last - first) / (ended - begun), (cpu_after - cpu_before) / (last - first))


def _cpu_of_workers() -> float:
    """Seconds of CPU that the scoring actors have used."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if (process.cmdline() or [""])[0].startswith("ray::MapWorker"):
                used = process.cpu_times()
                total += used.user + used.system
    return total


def _long_run(tasks: list[Task], store: CategoryStore, profile: Profile, folder: Path, count: int) -> dict[str, Any]:
    """One run of the job, as users start it, over `count` files; what all its processes hold, with time."""
    first = tasks[0]
    (folder / "originals").mkdir()
    (folder / "pictures").mkdir()
    originals = [folder / "originals" / f"{index}.png" for index in range(len(first.queries))]
    for original, query in zip(originals, first.queries, strict=True):
        original.write_bytes(encode_png(query))
    for index in tqdm(range(count), desc="linking pictures", unit="picture"):
        os.link(originals[index % len(originals)], folder / "pictures" / f"{index:07}.png")
    profile_file = folder / "profile.json"
    profile_file.write_text(profile.model_dump_json())
    output = folder / "long"
    command = [sys.executable, str(JOB), "--category", first.name, str(folder / "pictures"), "--output", str(output)]
    options = ["--profile", str(profile_file), "--store", store.url]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    begun = time.perf_counter()
    samples: list[dict[str, Any]] = []
    with subprocess.Popen(
        [*command, *options], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as job:
        shard = 0
        while job.poll() is None:
            time.sleep(min(5.0, 0.5 + (time.perf_counter() - begun) / 50))
            shard = shard or _shard(output)
            scored = shard * len(list(output.glob("part-*.parquet")))
            samples.append({"seconds": round(time.perf_counter() - begun), "scored": scored, "mib": _memory(job.pid)})
        assert job.stdout is not None
        summary = job.stdout.read().splitlines()[-1]
    # Neither what starts nor what ends: of a job that is done, little or nothing is left to be held.
    found = [sample for sample in samples if 0 < sample["scored"] < count]
    middle = [sum(sample["mib"].values()) for sample in found]
    quarter = max(1, len(middle) // 4)
    return {
        "pictures": count,
        "summary": {k: v for k, v in json.loads(summary).items() if k in ("pictures", "errors", "seconds")},
        "mib_in_quarters": [
            round(median(middle[start : start + quarter])) for start in range(0, 4 * quarter, quarter) if middle[start:]
        ],
        "samples": samples[:: max(1, len(samples) // 100)],
    }


def _shard(output: Path) -> int:
    with suppress(OSError, ValueError):
        return int(json.loads((output / "_run" / "run.json").read_text())["shard"])
    return 0


def _memory(pid: int) -> dict[str, int]:
    """MiB that a job and all that it started hold, shared pages counted once, by what they do."""
    held: dict[str, float] = defaultdict(float)
    with suppress(psutil.Error):
        job = psutil.Process(pid)
        for process in [job, *job.children(recursive=True)]:
            with suppress(psutil.Error):
                title = (process.cmdline() or [""])[0]
                kind = "job" if process == job else "Ray"
                if title.startswith("ray::MapWorker"):
                    kind = "worker"
                elif title.startswith("ray::"):
                    kind = "decoding"
                held[kind] += held_bytes(process) / 2**20
    return {kind: round(value) for kind, value in sorted(held.items())}


def _table(report: dict[str, Any]) -> str:
    lines = [f"{report['profile']}, {report['categories']} categories; {machine_line(report['machine'])}", ""]
    if "ratios" in report:
        ratios, rate, cpu = report["ratios"], report["pictures_per_second"], report["cpu_ms_per_picture"]
        lines += [
            f"| {report['pictures']} pictures | pictures/s | CPU of a picture, ms |",
            "| --- | --- | --- |",
            f"| bare loop, 1 thread | {rate['bare']} | {cpu['bare']} |",
            f"| offline, 1 worker | {rate['1']} | {cpu['1']} |",
            f"| offline, 2 workers | {rate['2']} | {cpu['2']} |",
            "",
            "| ratio | |",
            "| --- | --- |",
            f"| throughput, one worker to bare loop | {ratios['one_worker_to_bare']:.2f} |",
            f"| throughput, two workers to one | {ratios['two_workers_to_one']:.2f} |",
            f"| CPU per picture, bare loop to worker | {ratios['bare_cpu_to_worker_cpu']:.2f} |",
            "",
        ]
    if "long_run" in report:
        run = report["long_run"]
        lines += [
            f"{run['pictures']:,} pictures in one run of {run['summary']['seconds']} s; memory in each quarter of it: "
            f"{', '.join(f'{mib:,}' for mib in run['mib_in_quarters'])} MiB"
        ]
    return "\n".join(lines)
