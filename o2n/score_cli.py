"""`o2n score`: pictures -> one line for each, in this process or by the service."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from tqdm import tqdm

from o2n import images
from o2n.calibration import decide, shortfall
from o2n.category import VersionRef
from o2n.errors import PictureError
from o2n.options import print_json, rate_option, store_option
from o2n.store import CategoryStore

if TYPE_CHECKING:  # most of these import torch, which takes seconds that most commands need not spend
    from o2n.client import Client
    from o2n.fusion import Score
    from o2n.images import Picture
    from o2n.triplet import TripletScorer

Shown = tuple[Path, PictureError | dict[str, Any]]  # a picture, and what is shown of it or of its scores


@click.command()
@click.argument("name")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--version", metavar="ID", help="Score with this version instead of the one that serves now.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line per picture instead of a table.")
@click.option("--report", type=click.Path(path_type=Path), metavar="FILE", help="Also write an HTML report.")
@click.option("--url", metavar="URL", help="Let the service at this URL score, instead of this process.")
@click.option("--token", envvar="O2N_TOKEN", show_envvar=True, help="Bearer token for --url.")
@rate_option
@store_option
def score(
    name: str,
    paths: tuple[Path, ...],
    version: str | None,
    as_json: bool,
    report: Path | None,
    url: str | None,
    token: str | None,
    rate: float,
    store: CategoryStore,
) -> None:
    """Score pictures, or all pictures of folders, with category NAME, and decide which are anomalous.

    Higher is more anomalous; above the threshold, at most the given share of good pictures is. Each line has path,
    score, s_p, s_n, s_text, p_value, threshold, is_anomalous, false_positive_rate and version; a picture that cannot
    be read has path and error instead, the others are scored all the same, and the exit status is 1.
    """
    files = [file for path in paths for file in (images.find(path) if path.is_dir() else [path])]
    if not files:
        raise PictureError(f"no pictures in {', '.join(map(str, paths))}: give picture files or a folder of them")
    if url is not None:
        if version or report:
            raise click.UsageError("--version and --report are for scoring in this process, without --url")
        from o2n.client import Client

        with Client(url, token) as client:
            serving = client.category(name).version
            failed = _print_lines(_score_over_http(client, name, files, rate), f"{name} version {serving}", as_json)
    else:
        failed = _score_here(name, files, version, as_json, report, rate, store)
    if failed:
        raise PictureError(f"{failed} of {len(files)} pictures could not be scored: see their lines above")


def _score_here(
    name: str,
    files: list[Path],
    version: str | None,
    as_json: bool,
    report: Path | None,
    rate: float,
    store: CategoryStore,
) -> int:
    from o2n.report import THUMBNAIL, Card, check_report, write_report
    from o2n.triplet import TripletScorer

    ref = store.current(name) if version is None else VersionRef(name, version)
    scorer = TripletScorer(store.manifest(ref).profile, store)
    calibration = store.calibration(ref)
    if report is not None:
        check_report(report)
    shown: list[Card] = []
    refused: list[str] = []

    def outcomes() -> Iterator[Shown]:
        for path, outcome in _score_files(scorer, ref, files):
            if isinstance(outcome, PictureError):
                refused.append(str(outcome))
                yield path, outcome
                continue
            picture, found = outcome
            decision = decide(found.score, calibration, rate)
            if report is not None:
                shown.append(Card(name, str(path), None, images.fit(picture, THUMBNAIL), found, decision))
            yield path, {**found.values(), **decision.values(), "version": ref.version, "note": decision.note}

    failed = _print_lines(outcomes(), f"{name} version {ref.version}", as_json)
    note = shortfall(calibration, rate)
    if report is not None:
        title, notes = f"{name}, version {ref.version}", [note] if note else []
        write_report(report, shown, title, notes, refused=refused)
    return failed


def _print_lines(outcomes: Iterable[Shown], what: str, as_json: bool) -> int:
    """One line per picture, as they come, and once what is to be noted; returns how many could not be scored."""
    if not as_json:
        titles = f"{'score':>8} {'S_P':>8} {'S_N':>8} {'S_text':>8} {'p':>7}"
        click.echo(f"{titles}  decision   picture   ({what})")
    failed, noted = 0, None
    for path, outcome in outcomes:
        note = outcome.pop("note", None) if isinstance(outcome, dict) else None
        if note and note != noted:
            click.echo(f"note: {note}", err=True)
            noted = note
        if isinstance(outcome, PictureError):
            failed += 1
            if as_json:
                print_json({"path": str(path), "error": str(outcome)})
            else:
                click.echo(f"error: {outcome}", err=True)
        elif as_json:
            print_json({"path": str(path), **outcome})
        else:
            row = " ".join(f"{outcome[column]:8.4f}" for column in ("score", "s_p", "s_n", "s_text"))
            decided = "anomalous" if outcome["is_anomalous"] else "normal"
            click.echo(f"{row} {outcome['p_value']:7.4f}  {decided:9}  {click.format_filename(path)}")
    return failed


def _score_over_http(client: "Client", name: str, files: list[Path], rate: float) -> Iterator[Shown]:
    """What the service finds, portion by portion; where it refuses one for a picture, each of its pictures alone."""
    from o2n.client import INCLUDES, REQUEST_PICTURES

    for paths in (files[start : start + REQUEST_PICTURES] for start in range(0, len(files), REQUEST_PICTURES)):
        try:
            found = client.score(name, paths, false_positive_rate=rate)
        except PictureError as error:
            if len(paths) == 1:
                yield paths[0], error
            else:
                for path in paths:
                    yield from _score_over_http(client, name, [path], rate)
            continue
        for path, scored in zip(paths, found, strict=True):
            yield path, scored.model_dump(exclude={"name", *INCLUDES})


def _score_files(
    scorer: "TripletScorer", ref: VersionRef, files: list[Path]
) -> "Iterator[tuple[Path, tuple[Picture, Score] | PictureError]]":
    """Score files batch by batch, so that any number of them fits in memory."""
    from o2n.triplet import BATCH

    with tqdm(total=len(files), desc="scoring", unit=" pictures", leave=False, disable=None) as bar:
        for paths in (files[start : start + BATCH] for start in range(0, len(files), BATCH)):
            pictures: dict[Path, Picture] = {}
            refused: dict[Path, PictureError] = {}
            for path in paths:
                try:
                    pictures[path] = images.read(path)
                except PictureError as error:
                    refused[path] = error
            scores = scorer.score(list(pictures.values()), [ref] * len(pictures))
            scored = dict(zip(pictures, zip(pictures.values(), scores, strict=True), strict=True))
            for path in paths:
                bar.update()
                yield path, refused[path] if path in refused else scored[path]
