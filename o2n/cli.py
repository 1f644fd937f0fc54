"""The `o2n` command: onboard, score, feedback, serve, categories, tokens, models, doctor."""

import errno
import ipaddress
import os
import socket
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from tqdm import tqdm

from o2n import __version__, images
from o2n.calibration import decide, describe, least_rate, shortfall
from o2n.categories_cli import categories
from o2n.category import VersionRef
from o2n.errors import O2NError, PictureError
from o2n.models_cli import models
from o2n.options import (
    OneLineErrors,
    more_normal_option,
    object_option,
    print_json,
    profile_option,
    rate_option,
    references_option,
    store_option,
)
from o2n.profiles import Profile, get_profile
from o2n.settings import get_settings
from o2n.store import CategoryStore
from o2n.tokens import SCOPES, Scope, create_token, read_tokens, revoke_token

if TYPE_CHECKING:  # most of these import torch, which takes seconds that most commands need not spend
    from o2n.client import Client
    from o2n.fusion import Score
    from o2n.images import Picture
    from o2n.triplet import TripletScorer

Outcome = tuple[Path, PictureError | dict[str, Any]]  # a picture, and what is shown of it or of its scores


@click.group(cls=OneLineErrors, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Few-shot visual anomaly scoring: 2 to 8 pictures of good parts make a category, any new picture gets a score.

    \b
    o2n onboard bolts --references pictures/good     make a category
    o2n score bolts pictures/new --json              score a folder, one JSON line per picture
    o2n feedback bolts new.png --normal --by ada     a false alarm: add the picture to what is normal
    o2n serve                                        the same over HTTP
    o2n categories list                              what there is
    o2n models pull --profile paper                  fetch its models
    o2n doctor                                       does everything work here?
    """


@main.command()
@click.argument("name")
@references_option
@more_normal_option
@object_option
@profile_option
@store_option
def onboard(
    name: str,
    references: str | None,
    more_normal: str | None,
    object_word: str | None,
    profile: Profile,
    store: CategoryStore,
) -> None:
    """Make category NAME from pictures of good parts, and let it serve.

    Runs in this process. A run that was stopped goes on where it was when the same command is given again; the same
    pictures and profile give the same version. The last line printed is a JSON summary.
    """
    if references is None:
        raise click.UsageError("--references DIR is required: a folder with 2 to 8 pictures of good parts")
    from o2n.onboard import onboard as run
    from o2n.onboard import read_more_normal, read_references, smallest_side

    with tqdm(total=1.0, desc=name, bar_format="{desc}: {percentage:3.0f}% |{bar}| {elapsed}", disable=None) as bar:

        def show(stage: str, done: float) -> None:
            bar.set_description_str(f"{name}: {stage}")
            bar.n = done
            bar.refresh()

        files = read_references(references)
        good = list(files.values())
        more = read_more_normal(more_normal, profile.resolution(smallest_side(good))) if more_normal else []
        result = run(name, good, profile, store, object_word, show, more, list(files))
    for warning in result.warnings:
        click.echo(f"warning: {warning}", err=True)
    calibration = store.calibration(result.ref)
    print_json(
        {
            "category": name,
            "version": result.ref.version,
            "store": store.url,
            "normal_pictures": len(calibration.scores),
            "least_false_positive_rate": least_rate(calibration),
            "warnings": result.warnings,
            "resumed": result.resumed,
            "seconds": result.seconds,
        }
    )


@main.command()
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
            failed = _print_outcomes(_score_over_http(client, name, files, rate), f"{name} version {serving}", as_json)
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
    from o2n.report import THUMBNAIL, Scored, check_report, write_report
    from o2n.triplet import TripletScorer

    ref = store.current(name) if version is None else VersionRef(name, version)
    scorer = TripletScorer(store.manifest(ref).profile, store)
    calibration = store.calibration(ref)
    if report is not None:
        check_report(report)
    shown: list[Scored] = []
    refused: list[str] = []

    def outcomes() -> "Iterator[Outcome]":
        for path, outcome in _score_files(scorer, ref, files):
            if isinstance(outcome, PictureError):
                refused.append(str(outcome))
                yield path, outcome
                continue
            picture, found = outcome
            decision = decide(found.score, calibration, rate)
            if report is not None:
                shown.append(Scored(name, str(path), None, images.fit(picture, THUMBNAIL), found, decision))
            scores = {"score": found.score, "s_p": found.s_p, "s_n": found.s_n, "s_text": found.s_text}
            yield path, {**scores, **decision.values(), "version": ref.version, "note": decision.note}

    failed = _print_outcomes(outcomes(), f"{name} version {ref.version}", as_json)
    note = shortfall(calibration, rate)
    if report is not None:
        title, notes = f"{name}, version {ref.version}", [note] if note else []
        write_report(report, shown, title, notes, refused=refused)
    return failed


def _print_outcomes(outcomes: "Iterable[Outcome]", what: str, as_json: bool) -> int:
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


def _score_over_http(client: "Client", name: str, files: list[Path], rate: float) -> "Iterator[Outcome]":
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


@main.command()
@click.argument("name")
@click.argument("picture", type=click.Path(path_type=Path))
@click.option("--normal", "verdict", flag_value="normal", help="It goes into bank and thresholds of a new version.")
@click.option("--anomalous", "verdict", flag_value="anomalous", help="It is kept for evaluation.")
@click.option("--by", required=True, metavar="WHO", help="Who says so.")
@click.option("--note", metavar="TEXT", help="What else is to be remembered of it.")
@store_option
def feedback(name: str, picture: Path, verdict: str | None, by: str, note: str | None, store: CategoryStore) -> None:
    """Tell category NAME that PICTURE is normal, or that it is anomalous.

    Nothing is trained: a normal picture makes a new version at once, and `o2n categories rollback` undoes it.
    """
    if verdict is None:
        raise click.UsageError("say what the picture is: --normal or --anomalous")
    from o2n.feedback import accept_normal, keep_anomalous

    shown, ref = images.read(picture), store.current(name)
    if verdict == "anomalous":
        keep_anomalous(store, ref, shown, by, note)
        click.echo(f"{click.format_filename(picture)} is kept as anomalous for {name}")
        return
    from o2n.normals import encode
    from o2n.triplet import TripletScorer

    scorer = TripletScorer(store.manifest(ref).profile, store)
    query = images.resize(shown, store.manifest(ref).resolution)
    (found,) = scorer.score([query], [ref])
    features = encode(scorer.foundation, [query])[0].numpy()
    new = accept_normal(store, scorer.foundation, ref, query, features, found.s_p, found.s_text, by, note)
    if new == ref:
        known = click.format_filename(picture)
        click.echo(f"{known} is among the normal pictures of {name} already: version {ref.version} serves on")
    else:
        promise = describe(store.calibration(new), get_settings().false_positive_rate)
        click.echo(f"{name} now serves version {new.version}: {promise}")


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65535), help="Port to listen on.")
@click.option("--profile", default="tiny", show_default=True, help="As for onboard.")
@click.option("--insecure", is_flag=True, help="Ask for no tokens; on loopback alone.")
@store_option
def serve(host: str, port: int, profile: str, insecure: bool, store: CategoryStore) -> None:
    """Serve every category of the store over HTTP, on a Ray of its own, until interrupted.

    Who asks needs a token: see `o2n tokens create`. On a cluster, use `serve deploy serve/config.yaml` instead.
    """
    if insecure and not _is_loopback(host):
        raise O2NError(f"--insecure is refused on {host}, where others could reach it: use tokens, or --host 127.0.0.1")
    # What is wrong is told here, before Ray takes its seconds to start: the profile, the address, the store.
    get_profile(profile)
    _check_address(host, port)
    read_tokens(store)
    click.echo(f"starting the service with profile {profile}: its models take up to a minute to load", err=True)
    # The library does not import the service built upon it.
    options = [f"--host={host}", f"--port={port}", f"--profile={profile}", f"--store={store.url}"]
    os.execv(sys.executable, [sys.executable, "-m", "serve", *options, *(["--insecure"] if insecure else [])])


def _check_address(host: str, port: int) -> None:
    """Refuse an address that nobody can listen on, as the service's server would: after all else has started."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except (socket.gaierror, UnicodeError) as error:  # the latter for names that can be nobody's
        cause = getattr(error, "strerror", None) or error
        raise O2NError(f"host {host!r} is unknown ({cause}): choose another with --host") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise O2NError(f"port {port} of {host} is taken: choose another with --port") from None
        raise O2NError(
            f"port {port} of {host} cannot be listened on ({error.strerror}): choose another with --host or --port"
        ) from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@main.group()
def tokens() -> None:
    """Make, list and revoke the tokens that the HTTP service asks for."""


@tokens.command("create")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    type=click.Choice(SCOPES),
    help="What it allows: to score, to give feedback, to administer. May be given several times.",
)
@store_option
def create(name: str, scopes: tuple[Scope, ...], store: CategoryStore) -> None:
    """Make a token and print it, once: it is kept nowhere.

    NAME says who it is for, and signs the feedback that is given with it.
    """
    click.echo(create_token(store, name, list(scopes)))


@tokens.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON line per token.")
@store_option
def list_tokens(as_json: bool, store: CategoryStore) -> None:
    """All tokens, without their secrets."""
    found = read_tokens(store).tokens
    if not found and not as_json:
        click.echo(f"no tokens in {store.url}: make one with 'o2n tokens create NAME --scope score'")
    for token in found:
        created = token.created.isoformat(timespec="seconds")
        if as_json:
            print_json({"name": token.name, "scopes": sorted(token.scopes), "created": created})
        else:
            click.echo(f"{token.name:32} {created}  {', '.join(sorted(token.scopes))}")


@tokens.command()
@click.argument("name")
@store_option
def revoke(name: str, store: CategoryStore) -> None:
    """Revoke the token NAME: within seconds, no replica takes it any more."""
    revoke_token(store, name)
    click.echo(f"token {name} is revoked")


main.add_command(categories)
main.add_command(models)


@main.command()
@profile_option
@store_option
def doctor(profile: Profile, store: CategoryStore) -> None:
    """Check this machine: versions, device, models, store, Ray. Exit status 1 where something does not work."""
    from o2n import doctor as checks

    failed = False
    for check in (
        checks.versions,
        checks.device,
        lambda: checks.models(profile),
        lambda: checks.store(store),
        checks.ray,
    ):
        try:
            click.echo("\n".join(f"ok      {line}" for line in check()))
        except O2NError as error:
            failed = True
            click.echo(f"FAILED  {error}")
    if failed:
        sys.exit(1)
