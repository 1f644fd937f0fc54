"""The service beside the library: throughput and latency over HTTP and of the bare loop, in turns."""

import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import click
import psutil
import torch
from tqdm import tqdm

from infra.local.cluster import Cluster, local_cluster
from infra.local.deploy import deploy
from infra.local.load import percentiles, run_load, score_request
from jobs.benchmarks.figures import json_option, keep, machine, machine_line, make_task, ratio, seconds_of, shares
from o2n.category import VersionRef
from o2n.data.procedural import EVALUATION
from o2n.evaluation.speed import scoring_stages
from o2n.evaluation.tasks import Task
from o2n.images import Picture, encode_png
from o2n.onboard import onboard
from o2n.options import profile_option
from o2n.profiles import Profile
from o2n.store import CategoryStore
from o2n.triplet import BATCH, TripletScorer
from serve.app import MAX_DEADLINE_SECONDS


@click.command()
@click.option("--categories", default=4, show_default=True, type=click.IntRange(1, len(EVALUATION)))
@click.option("--pictures", default=48, show_default=True, help="Pictures of a turn, shared out over the categories.")
@click.option("--clients", default=16, show_default=True, help="Clients that send at the same time under load.")
@click.option("--rounds", default=3, show_default=True, help="Turns that each way of scoring gets.")
@json_option
@profile_option
def serving(
    categories: int, pictures: int, clients: int, rounds: int, json_file: Path | None, profile: Profile
) -> None:
    """Throughput and latency over HTTP beside the bare loop, and what each process of the service costs."""
    tasks = [make_task(family, pictures, profile) for family in EVALUATION[:categories]]
    with tempfile.TemporaryDirectory() as folder:
        store = CategoryStore((Path(folder) / "store").as_uri())
        refs = [
            onboard(task.name, task.references, profile, store, task.object_word).ref
            for task in tqdm(tasks, desc="onboarding", unit="category")
        ]
        profile_file = Path(folder) / "profile.json"
        profile_file.write_text(profile.model_dump_json())
        traffic = _Traffic(tasks, refs, pictures)
        scorer = TripletScorer(profile, store)
        with local_cluster(cpus=max(6, psutil.cpu_count() or 1), store=store.url) as cluster:
            url = deploy(cluster, replicas=1, profile=str(profile_file), deadline_seconds=MAX_DEADLINE_SECONDS)
            found = _take_turns(scorer, cluster, url, traffic, clients, rounds)
        queries, refs = traffic.mixed[0][:BATCH], traffic.mixed[1][:BATCH]
        stages = list(scoring_stages(scorer.foundation, store, queries, refs, rounds))
    report = {
        "machine": machine(),
        "profile": profile.name,
        "categories": categories,
        "pictures": pictures,
        "clients": clients,
        "rounds": rounds,
        **found.report(),
        "branches": shares({stage.name: stage.seconds for stage in stages}),
    }
    click.echo(_serving_table(report))
    keep(json_file, report)


class _Traffic:
    """The same number of pictures twice: of one category, and of all in turn."""

    def __init__(self, tasks: list[Task], refs: list[VersionRef], pictures: int) -> None:
        self.single: tuple[list[Picture], list[VersionRef]] = (tasks[0].queries, [refs[0]] * pictures)
        turns = [index % len(tasks) for index in range(pictures)]
        self.mixed = ([tasks[turn].queries[i] for i, turn in enumerate(turns)], [refs[turn] for turn in turns])

    def requests(self, kind: str) -> list[tuple[str, bytes, dict[str, str]]]:
        pictures, refs = getattr(self, kind)
        return [score_request(ref.category, encode_png(p)) for p, ref in zip(pictures, refs, strict=True)]


@dataclass
class _Found:
    """What the turns came to. Pictures per second by traffic, one per round; seconds of single requests; processes."""

    bare: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    http: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    bare_alone: list[float] = field(default_factory=list)
    http_alone: list[float] = field(default_factory=list)
    loaded: list[float] = field(default_factory=list)
    bare_cpu: list[float] = field(default_factory=list)
    http_cpu: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    processes: dict[str, int] = field(default_factory=dict)

    def report(self) -> dict[str, Any]:
        cpu = {name: 1000 * median(values) for name, values in self.http_cpu.items()}
        bare_cpu = 1000 * median(self.bare_cpu)
        return {
            "bare": {
                "processes": 1,
                "threads": torch.get_num_threads(),
                "pictures_per_second": {kind: round(median(values), 2) for kind, values in self.bare.items()},
                "alone_ms": percentiles(self.bare_alone),
                "cpu_ms_per_picture": round(bare_cpu, 2),
            },
            "http": {
                "processes": self.processes,
                "pictures_per_second": {kind: round(median(values), 2) for kind, values in self.http.items()},
                "alone_ms": percentiles(self.http_alone),
                "loaded_ms": percentiles(self.loaded),
                "cpu_ms_per_picture": {name: round(value, 2) for name, value in cpu.items()},
            },
            "cpu_shares": shares(cpu),
            "ratios": {
                # Round by round, because what else the machine does changes from one to the next.
                "throughput": ratio(self.http["mixed"], self.bare["mixed"]),
                "throughput_single": ratio(self.http["single"], self.bare["single"]),
                "mixed_to_single": ratio(self.http["mixed"], self.http["single"]),
                "bare_mixed_to_single": ratio(self.bare["mixed"], self.bare["single"]),
                "bare_cpu_to_http_cpu": round(bare_cpu / sum(cpu.values()), 3),
                "added_ms_at_median": round(1000 * (median(self.http_alone) - median(self.bare_alone)), 2),
            },
        }


def _take_turns(
    scorer: TripletScorer, cluster: Cluster, url: str, traffic: _Traffic, clients: int, rounds: int
) -> _Found:
    found = _Found()
    requests = {kind: traffic.requests(kind) for kind in ("single", "mixed")}
    few = max(4, len(requests["single"]) // 4)
    for kind in requests:  # so that every process has loaded every version
        scorer.score(*getattr(traffic, kind))
        run_load(url, requests[kind], min(4, clients))  # until it knows its pace, the service takes on few
    for _ in tqdm(range(rounds), desc="rounds", unit="round"):
        for kind in requests:
            pictures, refs = getattr(traffic, kind)
            with _cpu_of([psutil.Process()]) as spent:
                seconds = seconds_of(scorer.score, pictures, refs)
            found.bare[kind].append(len(pictures) / seconds)
            if kind == "mixed":
                found.bare_cpu.append(spent()["python"] / len(pictures))
            with _cpu_of(cluster.processes()) as spent:
                load = run_load(url, requests[kind], clients)
            found.http[kind].append(load.per_second)
            if kind == "mixed":
                found.loaded += load.seconds
                for name, value in spent().items():
                    found.http_cpu[name].append(value / len(pictures))
        for index in range(few):
            picture, ref = traffic.mixed[0][index], traffic.mixed[1][index]
            found.bare_alone.append(seconds_of(scorer.score, [picture], [ref]))
            found.http_alone += run_load(url, requests["mixed"][index : index + 1], 1).seconds
    for process in cluster.processes():
        with suppress(psutil.Error):
            found.processes[_kind(process)] = found.processes.get(_kind(process), 0) + 1
    return found


@contextmanager
def _cpu_of(processes: list[psutil.Process]) -> Iterator[Callable[[], dict[str, float]]]:
    """Seconds of CPU that processes use within it, by kind of process."""

    def times() -> dict[psutil.Process, tuple[str, float]]:
        found = {}
        for process in processes:
            with suppress(psutil.Error):
                used = process.cpu_times()
                found[process] = (_kind(process), used.user + used.system)
        return found

    before = times()
    after: dict[psutil.Process, tuple[str, float]] = {}

    def spent() -> dict[str, float]:
        total: dict[str, float] = defaultdict(float)
        for process, (kind, value) in after.items():
            if process in before:
                total[kind] += value - before[process][1]
        return dict(total)

    yield spent
    after.update(times())


def _kind(process: psutil.Process) -> str:
    """Encoder, Gateway, … for a replica; proxy, controller; "Ray" for everything else of a cluster."""
    if process.pid == os.getpid():
        return "python"
    title = (process.cmdline() or [""])[0]
    if title.startswith("ray::ServeReplica:"):
        return title.split(":")[4].split(".")[0]
    if title.startswith("ray::Proxy"):
        return "proxy"
    return "Ray"


def _serving_table(report: dict[str, Any]) -> str:
    bare, http, ratios = report["bare"], report["http"], report["ratios"]
    processes = sum(count for name, count in http["processes"].items() if name not in ("Ray", "proxy"))

    def row(name: str, figures: dict[str, Any], loaded: str) -> str:
        alone, rate = figures["alone_ms"], figures["pictures_per_second"]
        cells = [name, rate["single"], rate["mixed"], alone["p50"], alone["p95"], alone["p99"], loaded]
        return f"| {' | '.join(str(cell) for cell in cells)} |"

    def shares(title: str, values: dict[str, float]) -> list[str]:
        largest = sorted(values.items(), key=lambda item: -item[1])
        return ["", f"| {title} | share |", "| --- | --- |", *(f"| {name} | {100 * v:.1f}% |" for name, v in largest)]

    loaded = http["loaded_ms"]
    return "\n".join(
        [
            f"{report['profile']}, {report['categories']} categories, {report['pictures']} pictures, "
            f"{report['clients']} clients; {machine_line(report['machine'])}",
            "",
            "| | one category, pictures/s | mixed | alone, p50 ms | p95 | p99 | under load, p50 / p95 / p99 ms |",
            "| --- " * 7 + "|",
            row(f"bare loop, 1 process, {bare['threads']} threads", bare, ""),
            row(f"HTTP, {processes} replicas", http, f"{loaded['p50']} / {loaded['p95']} / {loaded['p99']}"),
            "",
            "| ratio | |",
            "| --- | --- |",
            f"| throughput, HTTP to bare loop, mixed | {ratios['throughput']:.2f} |",
            f"| throughput, HTTP to bare loop, one category | {ratios['throughput_single']:.2f} |",
            f"| throughput over HTTP, mixed to one category | {ratios['mixed_to_single']:.2f} |",
            f"| throughput of the bare loop, mixed to one category | {ratios['bare_mixed_to_single']:.2f} |",
            f"| CPU per picture, bare loop to service | {ratios['bare_cpu_to_http_cpu']:.2f} |",
            f"| added to a picture alone, at the median | {ratios['added_ms_at_median']:.1f} ms |",
            *shares("a batch's time in the library", report["branches"]),
            *shares("CPU of the service", report["cpu_shares"]),
        ]
    )
