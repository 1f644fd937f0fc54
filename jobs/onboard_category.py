"""Ray job: onboard one category, or many of them side by side.

    ray job submit --working-dir . -- python jobs/onboard_category.py bolts --references /data/bolts/train/good
    ray job submit --working-dir . -- python jobs/onboard_category.py --tree s3://bucket/pictures
    ray job submit --working-dir . -- python jobs/onboard_category.py --manifest categories.yaml --dry-run

Without a cluster it starts a local one. The same command again goes on where a killed run stopped, and does nothing for
what is published. The last line printed is a JSON summary; the exit status is 1 where any category failed, and the
others are published all the same.
"""

import json
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click

from o2n import sources
from o2n.category_worker import Outcome
from o2n.fanout import fan_out, room
from o2n.files import replacing
from o2n.options import (
    Number,
    OneLineErrorsCommand,
    connect_ray,
    gpus_of_a_worker,
    gpus_option,
    more_normal_option,
    object_option,
    print_json,
    profile_option,
    references_option,
    refuse_empty,
    store_option,
)
from o2n.profiles import Profile
from o2n.progress import ProgressLog, clock
from o2n.sources import Source
from o2n.store import CategoryStore

# Ray's log reader breaks off at a line of 4 MiB.
MAX_LISTED = 2000


@click.command(cls=OneLineErrorsCommand)
@click.argument("name", required=False)
@references_option
@click.option(
    "--tree",
    metavar="PLACE",
    callback=refuse_empty,
    help="Onboard every folder NAME of a folder or s3://bucket/prefix that has good pictures in NAME/train/good "
    "(MVTec layout) or in NAME itself.",
)
@click.option(
    "--manifest",
    metavar="FILE",
    callback=refuse_empty,
    help="Onboard what a .yaml or .csv file lists: name, references, and if wanted object, more_normal, profile.",
)
@more_normal_option
@object_option
@profile_option
@store_option
@click.option("--cpus", type=Number(0, min_open=True), default=1.0, show_default=True, help="Cores a worker.")
@gpus_option
@click.option(
    "--workers", type=click.IntRange(1), help="Categories side by side. Default: as many as the nodes have room for."
)
@click.option("--dry-run", is_flag=True, help="Check all pictures, say what would be done and how long it would take.")
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the summary here too.",
)
def main(
    name: str | None,
    references: str | None,
    tree: str | None,
    manifest: str | None,
    more_normal: str | None,
    object_word: str | None,
    profile: Profile,
    store: CategoryStore,
    cpus: float,
    gpus: float | None,
    workers: int | None,
    dry_run: bool,
    json_file: Path | None,
) -> None:
    """Onboard category NAME from --references, or all categories of --tree or --manifest side by side."""
    if [name, tree, manifest].count(None) != 2 or (name is None) != (references is None):
        raise click.UsageError("give NAME with --references, or --tree, or --manifest")
    if name is None and (more_normal or object_word):
        raise click.UsageError("--more-normal and --object are for one category: give them with NAME, or in a manifest")
    if json_file and not (json_file.name and os.access(json_file.parent, os.W_OK)):
        raise click.UsageError(f"--json {json_file}: {json_file.parent} is no folder that can be written to")
    if manifest:
        wanted = sources.manifest(manifest, profile)
    elif tree:
        wanted = sources.tree(tree, profile)
    else:
        wanted = [Source(str(name), str(references), profile, object_word, more_normal)]
    connect_ray()
    gpus = gpus_of_a_worker(gpus)
    begun = time.perf_counter()
    outcomes = fan_out(
        "preview" if dry_run else "onboard",
        wanted,
        store,
        cpus=cpus,
        gpus=gpus,
        workers=workers,
        tell=ProgressLog(click.echo, f"{cpus:g} cores" + (f" and {gpus:g} GPUs" if gpus else "")),
    )
    summary: dict[str, Any] = {
        **dict.fromkeys(("new", "resumes") if dry_run else ("published",), 0),
        "unchanged": 0,
        "failed": 0,
        **Counter(outcome.status for outcome in outcomes),
        "store": store.url,
        "seconds": round(time.perf_counter() - begun, 1),
        "lost_workers": sum(outcome.lost_workers for outcome in outcomes),
    }
    if dry_run:
        summary["estimate"] = _estimate(wanted, outcomes, store, cpus, gpus, workers)
    listed = outcomes if len(outcomes) <= MAX_LISTED else [outcome for outcome in outcomes if outcome.error]
    print_json({**summary, "categories": _rows(listed[:MAX_LISTED])})
    if json_file:
        with replacing(json_file) as part:
            part.write_text(json.dumps({**summary, "categories": _rows(outcomes)}, indent=1))
    sys.exit(1 if summary["failed"] else 0)


def _estimate(
    wanted: list[Source], previews: list[Outcome], store: CategoryStore, cpus: float, gpus: float, workers: int | None
) -> dict[str, Any] | None:
    """Time and hours of what is still to do; None where that is nothing. Where no version of the store tells how long
    stages take, the first category is onboarded into a scratch store."""
    from o2n.estimate import estimate, recorded

    to_do = [(source, found) for source, found in zip(wanted, previews, strict=True) if found.missing]
    if not to_do:
        statuses = {found.status for found in previews}
        if "failed" not in statuses:
            click.echo("nothing to do" if statuses == {"unchanged"} else "no stage is left to make")
        return None
    source, found = to_do[0]
    seconds, versions = recorded(store, source.profile, found.machine)
    rests_on = f"the median of {versions} versions in the store, made on {found.machine}"
    if not seconds:
        click.echo(f"measuring: {source.name} is onboarded into a scratch store, because no version tells the times")
        (measured,) = fan_out("measure", [source], store, cpus=cpus, gpus=gpus, workers=1)
        if measured.error:
            click.echo(f"no estimate: {measured.error.message}")
            return None
        seconds, rests_on = measured.seconds, f"category {source.name}, measured just now on {found.machine}"
    if len({source.profile for source in wanted}) > 1:
        rests_on += f"; all are taken to last as long as with profile {source.profile.name}"
    side_by_side = workers or max(1, room(cpus, gpus))
    found_out = estimate(wanted, previews, seconds, rests_on, workers=side_by_side, cpus=cpus, gpus=gpus)
    click.echo(
        f"estimate: {clock(found_out.seconds)} with {found_out.workers} side by side, {found_out.core_hours:.2f} core "
        f"hours, {found_out.gpu_hours:.2f} GPU hours; it rests on {rests_on}"
    )
    return found_out.report()


def _rows(outcomes: list[Outcome]) -> list[dict[str, Any]]:
    return [outcome.model_dump(exclude_defaults=True) for outcome in outcomes]


if __name__ == "__main__":
    main()
