"""`make demo`: the whole road on one machine, through the same doors a cluster has.

A Ray cluster of its own, `ray job submit` of the onboarding job, `serve deploy` of serve/config.yaml, every query over
HTTP, the same queries through the offline job and in process, a check that all three agree, a table and a report.
"""

import base64
import contextlib
import fcntl
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import psutil
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm import tqdm

from infra.local.cluster import local_cluster
from infra.local.deploy import StepError, deploy, step, submit
from infra.local.memory import PeakMemory
from infra.local.photographs import write_photographs
from o2n import images
from o2n.category import VersionRef
from o2n.client import Client
from o2n.errors import CategoryError
from o2n.fusion import Score
from o2n.interrupt import until_interrupted
from o2n.options import OneLineErrorsCommand
from o2n.profiles import get_profile
from o2n.report import Card, auroc_table, write_report
from o2n.store import CategoryStore
from o2n.triplet import TripletScorer
from o2n.version import tensor_in

PROFILE = "tiny"
MARK = ".o2n-demo"  # says that a folder is a demo's own
AGREEMENT = 1e-5  # in the branches' own units
MIN_AUROC = 0.8  # of the demo's own photographs; guessing is 0.5


@dataclass(frozen=True)
class Query:
    """One picture to score. label: 'good', or the kind of its defect."""

    category: str
    label: str
    path: Path


@click.command(cls=OneLineErrorsCommand)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Your own pictures, DIR/NAME/train/good and DIR/NAME/test/<kind>. Default: photographs from scikit-image.",
)
@click.option("--output", type=click.Path(path_type=Path), default=Path("o2n-demo"), show_default=True, metavar="DIR")
@click.option("--keep", is_flag=True, help="Leave the service running until Ctrl-C.")
def main(data: Path | None, output: Path, keep: bool) -> None:
    """Onboard, serve and score a few categories, and check that every way in gives the same scores."""
    until_interrupted()
    with own_folder(output.resolve()):
        run(data, output.resolve(), keep)


def run(data: Path | None, output: Path, keep: bool) -> None:
    """The demo, step by step.

    Raises:
        O2NError: a step that failed, a cluster that did not come up; everything it started is stopped.
    """
    begun = time.monotonic()
    own_photographs = data is None
    if data is None:
        data = output / "pictures"
        shutil.rmtree(data, ignore_errors=True)
        write_photographs(data)
    data = data.resolve()
    queries = find_queries(data)
    store = CategoryStore(f"file://{output / 'store'}")
    # Categories are onboarded side by side and five deployments wait for work: slots, of which a small machine has few.
    with (
        local_cluster(cpus=max(4, psutil.cpu_count() or 1), store=store.url) as cluster,
        PeakMemory(cluster) as peak,
    ):
        categories = sorted({query.category for query in queries})
        step(f"onboarding {', '.join(categories)} side by side (ray job submit)")
        submit(cluster, "jobs/onboard_category.py", "--tree", str(data), "--profile", PROFILE)

        step("deploying serve/config.yaml (serve deploy)")
        url = deploy(cluster)

        step(f"scoring {len(queries)} pictures over HTTP")
        refs, over_http = score_over_http(url, queries)

        step("scoring the same pictures with Ray Data (ray job submit)")
        scores = output / "scores"
        submit(
            cluster,
            "jobs/score_images.py",
            "--tree",
            str(data),
            "--output",
            str(scores),
            "--profile",
            PROFILE,
        )

        step("scoring them once more in this process, and comparing")
        pictures = [images.read(query.path) for query in queries]
        scorer = TripletScorer(get_profile(PROFILE), store)
        in_process = scorer.score(pictures, [refs[query.category] for query in queries])
        unit = {name: units(store, refs[name]) for name in categories}
        difference = largest_difference(queries, over_http, read_offline(scores), in_process, unit)
        if not difference <= AGREEMENT:  # so that a missing score, which is no number, fails too
            raise StepError(f"HTTP, offline and in-process scores differ by {difference:.2e}, more than {AGREEMENT}")

        shown = [
            Card(q.category, str(q.path.relative_to(data)), q.label, picture, score)
            for q, picture, score in zip(queries, pictures, over_http, strict=True)
        ]
        first = queries[-1]
        curl = f"curl -F pictures=@{first.path} '{url}/v1/categories/{first.category}/score'"
        report = output / "report.html"
        write_report(report, shown, "O2N demo", curl=curl)
        mean = print_table(shown)
        if own_photographs and not mean >= MIN_AUROC:
            raise StepError(f"mean AUROC {mean:.3f}, less than {MIN_AUROC}: the models are not what they should be")
        click.echo(f"HTTP, offline and in-process scores agree to {difference:.1e}")
        click.echo(f"{time.monotonic() - begun:.0f} s, {peak.gib:.1f} GiB of memory at most")
        click.echo(f"report: {report}")
        click.echo(f"try next{'' if keep else ' (make demo ARGS=--keep leaves the service running)'}:\n  {curl}")
        if keep:
            click.echo("serving until Ctrl-C")
            with contextlib.suppress(KeyboardInterrupt):
                threading.Event().wait()


@contextlib.contextmanager
def own_folder(output: Path) -> Iterator[None]:
    """Make the folder, or take away the store and the scores of a demo before, so that what this one shows is what it
    did; until the end no other demo gets it.

    Raises: StepError: there are files in it that no demo made, or another demo is running in it.
    """
    mark = output / MARK
    if output.exists() and not mark.exists() and (not output.is_dir() or any(output.iterdir())):
        raise StepError(
            f"--output {output} holds other things than a demo's: give a new folder, or an empty one "
            "('make clean' removes o2n-demo)"
        )
    output.mkdir(parents=True, exist_ok=True)
    with mark.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StepError(f"another demo runs in {output}: wait for its end, or give another --output") from None
        for name in ("store", "scores"):
            shutil.rmtree(output / name, ignore_errors=True)
        yield


def find_queries(data: Path) -> list[Query]:
    """Every picture below DIR/NAME/test/<kind>."""
    queries = [
        Query(folder.parent.parent.name, folder.name, path)
        for folder in sorted(data.glob("*/test/*"))
        if folder.is_dir()
        for path in images.find(folder)
    ]
    if not queries:
        raise CategoryError(f"no pictures in {data}/NAME/test/<kind>: lay your pictures out like MVTec AD")
    return queries


def score_over_http(url: str, queries: list[Query]) -> tuple[dict[str, VersionRef], list[Score]]:
    """One request per picture, several at a time, as cameras would send them."""

    def score_one(query: Query) -> Score:
        (found,) = client.score(query.category, [query.path], include=["anomaly_map", "counterpart"])
        return Score(
            ref=VersionRef(query.category, found.version),
            score=found.score,
            s_p=found.s_p,
            s_n=found.s_n,
            s_text=found.s_text,
            anomaly_map=np.asarray(found.anomaly_map, np.float32),
            counterpart=images.decode(base64.b64decode(found.counterpart or "")),
        )

    with Client(url, timeout=120) as client, ThreadPoolExecutor(8) as threads:
        scores = list(tqdm(threads.map(score_one, queries), total=len(queries), desc="  HTTP", leave=False))
    return {score.ref.category: score.ref for score in scores}, scores


def read_offline(folder: Path) -> dict[str, dict[str, float]]:
    """The offline job's Parquet files: path -> its row."""
    return {row["path"]: row for row in pq.read_table(folder).to_pylist()}


def largest_difference(
    queries: list[Query],
    over_http: list[Score],
    offline: dict[str, dict[str, float]],
    in_process: list[Score],
    unit: dict[str, NDArray[np.floating]],
) -> float:
    """Over all queries and all four scores, how far the three ways in are apart at most, in each category's units."""
    columns = ("score", "s_p", "s_n", "s_text")
    table = np.array(
        [
            [
                [getattr(h, c) for c in columns],
                [offline[str(q.path)][c] for c in columns],
                [getattr(p, c) for c in columns],
            ]
            for q, h, p in zip(queries, over_http, in_process, strict=True)
        ],
        dtype=float,
    )
    apart = table.max(axis=1) - table.min(axis=1)
    return float((apart * np.stack([unit[query.category] for query in queries])).max())


def units(store: CategoryStore, ref: VersionRef) -> NDArray[np.floating]:
    """What 1 of the fused score, S_P, S_N and S_text is in the branches' own units: the version's deviations, which are
    1 in a profile that is not calibrated. The fused score counts in the largest."""
    scales = tensor_in(store, store.manifest(ref), "scales").numpy()
    return np.array([scales[:, 1].max(), *scales[:, 1]])


def print_table(shown: list[Card]) -> float:
    """Category, pictures, AUROC of every branch and of their fusion; returns the mean of the last, NaN without any."""
    click.echo(
        f"\n{'category':16} {'good':>6} {'defect':>6} {'S_P':>7} {'S_N':>7} {'S_text':>7} {'fused':>7}   AUROC, %"
    )
    rows = auroc_table(shown)
    for row in rows:
        values = " ".join(
            f"{100 * value:7.1f}" if value is not None else f"{'-':>7}"
            for value in (row.s_p, row.s_n, row.s_text, row.fused)
        )
        click.echo(f"{row.category:16} {row.good:6} {row.defective:6} {values}")
    click.echo()
    return next((row.fused for row in rows if row.category == "mean" and row.fused is not None), float("nan"))


if __name__ == "__main__":
    main()
