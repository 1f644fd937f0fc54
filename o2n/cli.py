"""The `o2n` command: onboard, score, feedback, serve, categories, tokens, models, doctor."""

import errno
import ipaddress
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

import click
from tqdm import tqdm

from o2n import __version__, images
from o2n.calibration import describe, least_rate
from o2n.categories_cli import categories
from o2n.errors import O2NError, StoreError
from o2n.interrupt import SIGNALS
from o2n.models_cli import models
from o2n.options import (
    OneLineErrors,
    more_normal_option,
    object_option,
    print_json,
    profile_option,
    references_option,
    store_option,
)
from o2n.profiles import Profile, get_profile
from o2n.score_cli import score
from o2n.settings import get_settings
from o2n.store import CategoryStore
from o2n.tokens import read_tokens
from o2n.tokens_cli import tokens


@click.group(cls=OneLineErrors)
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

    files = read_references(references)
    good = list(files.values())
    more = read_more_normal(more_normal, profile.resolution(smallest_side(good))) if more_normal else []
    with tqdm(total=1.0, desc=name, bar_format="{desc}: {percentage:3.0f}% |{bar}| {elapsed}", disable=None) as bar:

        def show(stage: str, done: float) -> None:
            bar.set_description_str(f"{name}: {stage}")
            bar.n = done
            bar.refresh()

        try:
            result = run(name, good, profile, store, object_word, show, more, list(files))
        except KeyboardInterrupt:
            bar.close()
            click.echo(f"{name} was not onboarded to the end: the same command goes on from what is done", err=True)
            raise
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
@click.argument("picture", type=click.Path(path_type=Path))
@click.option("--normal", is_flag=True, help="It goes into bank and thresholds of a new version.")
@click.option("--anomalous", is_flag=True, help="It is kept for evaluation.")
@click.option("--withdrawn", is_flag=True, help="It is among the normal ones by mistake.")
@click.option("--by", required=True, metavar="WHO", help="Who says so.")
@click.option("--note", metavar="TEXT", help="What else is to be remembered of it.")
@store_option
def feedback(
    name: str,
    picture: Path,
    normal: bool,
    anomalous: bool,
    withdrawn: bool,
    by: str,
    note: str | None,
    store: CategoryStore,
) -> None:
    """Tell category NAME that PICTURE is normal, or that it is anomalous.

    Nothing is trained: a normal picture makes a new version at once. One that turns out not to be is taken out again
    with --withdrawn, and all others stay; `o2n categories rollback` undoes whatever came last.
    """
    if normal + anomalous + withdrawn != 1:
        raise click.UsageError("say what the picture is with one of --normal, --anomalous and --withdrawn")
    from o2n.feedback import accept_normal, keep_anomalous, withdraw_normal

    shown, ref = images.read(picture), store.current(name)
    if anomalous:
        counts_as = keep_anomalous(store, ref, shown, by, note)
        click.echo(f"{click.format_filename(picture)} is kept as anomalous for {name}")
        if counts_as == "reference":
            click.echo("but it is one of its references: onboard it again without that one", err=True)
        elif counts_as:
            click.echo("but it is among its normal pictures yet: take it out with --withdrawn", err=True)
        return
    if withdrawn:
        new = withdraw_normal(store, ref, shown, by, note)
        without = click.format_filename(picture)
        if new == ref:
            click.echo(f"{without} was withdrawn before: version {ref.version} of {name} serves on without it")
        else:
            click.echo(f"{name} now serves version {new.version}, without {without}")
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
    known = read_tokens(store)
    click.echo(f"starting the service with profile {profile}: its models take up to a minute to load", err=True)
    if not insecure and not known:
        click.echo("nobody has a token for it yet: 'o2n tokens create NAME' makes one", err=True)
    with suppress(StoreError):  # who serves need not be allowed to list
        if not store.categories():
            click.echo(f"{store.url} has no categories yet: 'o2n onboard' makes one", err=True)
    # Who stops it means this process, and not those that Ray starts for it, to which a terminal or systemd sends the
    # same signal: they are born with it held back, and this one takes it as soon as it can end them in good order.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
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


for command in (score, categories, tokens, models):
    main.add_command(command)


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
