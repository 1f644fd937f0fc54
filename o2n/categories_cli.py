"""`o2n categories`: what there is, which version serves, and what is not needed any more."""

from datetime import timedelta
from typing import Any

import click

from o2n.calibration import describe, least_rate
from o2n.errors import IntegrityError, NotFoundError, O2NError
from o2n.options import print_json, store_option
from o2n.settings import get_settings
from o2n.store import CategoryStore


@click.group()
def categories() -> None:
    """List, show, roll back and delete categories."""


@categories.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON line per category.")
@store_option
def list_categories(as_json: bool, store: CategoryStore) -> None:
    """All categories, with the version that serves.

    One that cannot be read is told of on standard error, and the exit status is 1.
    """
    names, failed = store.categories(), 0
    if not names and not as_json:
        click.echo(f"no categories in {store.url}: make one with 'o2n onboard NAME --references DIR'")
    for name in names:
        try:
            manifest = store.manifest(store.current(name))
        except (IntegrityError, NotFoundError) as error:
            failed += 1
            click.echo(f"error: {error}", err=True)
            continue
        row = {
            "category": name,
            "version": manifest.version,
            "created": manifest.created.isoformat(timespec="seconds"),
            "references": len(manifest.reference_digests),
            "profile": manifest.profile.name,
        }
        if as_json:
            print_json(row)
        else:
            click.echo(
                f"{name:32} {row['version']}  {row['created']}  {row['references']} references  {row['profile']}"
            )
    if failed:
        raise O2NError(f"{failed} of {len(names)} categories could not be read: see their lines above")


@categories.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="The whole manifests as JSON lines.")
@store_option
def show(name: str, as_json: bool, store: CategoryStore) -> None:
    """Every version of category NAME, newest first; `*` marks the one that serves.

    One that cannot be read is told of on standard error, and the exit status is 1.
    """
    current, unread = store.current(name).version, list[O2NError]()
    versions = store.versions(name, unread)
    for manifest in versions:
        try:
            calibration = store.calibration(manifest.ref)
            promise = describe(calibration, get_settings().false_positive_rate)
            figures: dict[str, Any] = {
                "normal_pictures": len(calibration.scores),
                "least_false_positive_rate": least_rate(calibration),
            }
        except IntegrityError as error:  # the other versions are to be seen all the same
            promise, figures = f"error: {error}", {"error": str(error)}
        if as_json:
            row = {"version": manifest.version, "current": manifest.version == current}
            print_json(row | figures | manifest.model_dump())
            continue
        size = sum(blob.size for blob in manifest.blobs.values())
        click.echo(
            f"{'*' if manifest.version == current else ' '} {manifest.version}  "
            f"{manifest.created.isoformat(timespec='seconds')}  object '{manifest.object_word}'  "
            f"{len(manifest.reference_digests)} references  {size / 1e6:.1f} MB  models {manifest.foundation}"
        )
        click.echo(f"    {promise}")
        click.echo(f"    S_text by {manifest.profile.reads_by}")
        if manifest.parent:
            last = manifest.feedback[-1]
            told = (
                "and a picture that {} said is normal" if last.verdict == "normal" else "without one that {} withdrew"
            )
            note = f": {last.note}" if last.note else ""
            click.echo(f"    version {manifest.parent} {told.format(last.by)}{note}")
        for warning in manifest.warnings:
            click.echo(f"    warning: {warning}")
    for damage in unread:
        click.echo(f"error: {damage}", err=True)
    if unread:
        count = len(versions) + len(unread)
        raise O2NError(f"{len(unread)} of {count} versions of {name} could not be read: see their lines above")
    kept = 0 if as_json else sum(said.verdict == "anomalous" for said in store.feedback(name))
    if kept:
        click.echo(f"  {kept} picture{'s' * (kept != 1)} kept as anomalous, for evaluation")


@categories.command()
@click.argument("name")
@click.option("--version", metavar="ID", help="The version to go back to. Default: the one that served before.")
@store_option
def rollback(name: str, version: str | None, store: CategoryStore) -> None:
    """Let an earlier version of category NAME serve again."""
    click.echo(f"{name} now serves version {store.rollback(name, version).version}")


@categories.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@store_option
def delete(name: str, yes: bool, store: CategoryStore) -> None:
    """Delete category NAME with all its versions. Its space is freed by `o2n categories collect`, days later."""
    if not yes:
        click.confirm(f"Delete category {name} with all its versions from {store.url}?", abort=True)
    store.delete(name)
    click.echo(f"{name} is deleted")


@categories.command("collect")
@click.option(
    "--older-than",
    "days",
    type=click.IntRange(1, 36_500),
    default=7,
    show_default=True,
    metavar="DAYS",
    help="Leave what is younger.",
)
@click.option("--keep", type=click.IntRange(min=0), metavar="N", help="Forget all but N earlier versions of each.")
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
@store_option
def collect_garbage(days: int, keep: int | None, dry_run: bool, store: CategoryStore) -> None:
    """Free the space of deleted categories, of onboardings that were given up, and of forgotten versions.

    Safe while others onboard and serve.
    """
    from o2n.collect import collect

    found = collect(
        store, timedelta(days=days), keep=keep, dry_run=dry_run, on_progress=lambda what: click.echo(what, err=True)
    )
    would = "would be " if dry_run else ""
    click.echo(
        f"{found.bytes / 2**20:.1f} MiB {would}freed: {found.versions} versions, {found.verdicts} verdicts, "
        f"{found.stages} stages, {found.blobs} blobs"
    )
