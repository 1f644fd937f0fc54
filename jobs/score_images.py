"""Ray job: score folders, S3 prefixes or Parquet files of pictures with Ray Data, categories mixed.

    ray job submit --working-dir . -- python jobs/score_images.py --category bolts /data/new --output /data/scores
    ray job submit --working-dir . -- python jobs/score_images.py --tree s3://bucket/new --output s3://bucket/scores
    ray job submit --working-dir . -- python jobs/score_images.py --parquet /data/new.parquet --output /data/scores

Without a cluster it starts a local one. Scores are written as Parquet; a picture that cannot be read becomes a row
with its error. A job that was killed goes on when it is started again with the same arguments, with the versions that
it began with; one that is done does nothing. The last line printed is a JSON summary.
"""

import time
from pathlib import Path

import click
import ray
from tqdm import tqdm

from o2n.calibration import shortfall
from o2n.category import VersionRef
from o2n.errors import O2NError, PictureError
from o2n.inputs import Inputs
from o2n.offline_plan import Request
from o2n.offline_run import OWN_COLUMNS, open_run
from o2n.options import (
    OneLineErrorsCommand,
    connect_ray,
    gpus_of_a_worker,
    gpus_option,
    print_json,
    profile_option,
    rate_option,
    store_option,
)
from o2n.profiles import Profile
from o2n.store import CategoryStore
from o2n.tally import drawn, tally

PLACE = "folder or s3:// prefix"


@click.command(cls=OneLineErrorsCommand)
@click.argument("folders", nargs=-1)
@click.option("--category", metavar="NAME", help="Score the pictures in FOLDERS or --parquet with this category.")
@click.option(
    "--tree",
    metavar="DIR",
    help=f"A {PLACE} of categories: score DIR/NAME/test, as in MVTec AD, or all of DIR/NAME, with category NAME.",
)
@click.option(
    "--parquet",
    metavar="URL",
    help=f"A Parquet file, or a {PLACE} of them, with pictures in a column 'bytes' or their places in 'path'.",
)
@click.option("--category-column", metavar="NAME", help="Column of --parquet with categories. Default: category.")
@click.option(
    "--keep",
    multiple=True,
    metavar="NAME",
    help="Column of --parquet to keep beside the scores; may be repeated.",
)
@click.option("--output", required=True, metavar="DIR", help=f"A {PLACE} of its own for the Parquet files.")
@click.option("--overwrite", is_flag=True, help="Delete the scores of another run in --output.")
@click.option("--maps", metavar="DIR", help=f"A {PLACE} for anomaly maps, as TIFF files of numbers.")
@click.option("--counterparts", metavar="DIR", help=f"A {PLACE} for the pictures' normal counterparts.")
@click.option(
    "--workers", default=1, show_default=True, type=click.IntRange(1), help="Scoring actors, each with its models."
)
@gpus_option
@rate_option
@profile_option
@store_option
def main(
    folders: tuple[str, ...],
    category: str | None,
    tree: str | None,
    parquet: str | None,
    category_column: str | None,
    keep: tuple[str, ...],
    output: str,
    overwrite: bool,
    maps: str | None,
    counterparts: str | None,
    workers: int,
    gpus: float | None,
    rate: float,
    profile: Profile,
    store: CategoryStore,
) -> None:
    """Score all pictures in FOLDERS (folders or s3:// prefixes) with --category NAME, a --tree, or --parquet."""
    inputs = _inputs(folders, category, tree, parquet, category_column, keep)
    pictures = [*folders, *([tree] if tree else [])]
    for option, place, read in (
        ("--output", output, [parquet] if parquet else []),
        ("--maps", maps, pictures),
        ("--counterparts", counterparts, pictures),
    ):
        if place and any(_lies_in(place, scored) for scored in read):
            raise click.UsageError(f"{option} {place} lies where pictures are scored: another run would score it, too")
    request = Request(
        inputs=inputs, store=store.url, profile=profile, rate=rate, maps=_whole(maps), counterparts=_whole(counterparts)
    )
    run = open_run(output, request, store, workers, overwrite)
    notes = {name: note for name, ref in run.refs.items() if (note := _note(store, ref, rate))}
    shards = run.plan.shards()
    before = sum(shards[shard] for shard in run.done())
    if before:
        click.echo(
            f"note: {run.output} goes on with the pictures and versions of its start, {before} of them scored before: "
            "for those of today give another --output, or --overwrite",
            err=True,
        )
    begun = time.perf_counter()
    if before < run.plan.pictures:
        _connect(workers)
        from o2n.offline import score_run

        with tqdm(total=run.plan.pictures, initial=before, unit="picture", mininterval=5, desc="scored") as bar:
            for kept in score_run(run, store, workers=workers, gpus_per_worker=gpus_of_a_worker(gpus)):
                bar.update(kept)
    seconds = time.perf_counter() - begun
    tallies = tally(run.scores())
    click.echo(drawn(tallies))
    print_json(
        {
            "pictures": run.plan.pictures,
            "scored_before": before,
            "errors": sum(one.errors for one in tallies.values()),
            "anomalous": sum(one.anomalous for one in tallies.values()),
            "versions": run.plan.versions,
            "notes": notes,
            "output": run.output,
            "seconds": round(seconds, 1),
            "pictures_per_second": round((run.plan.pictures - before) / seconds, 2),
            "categories": {name: one.report() for name, one in tallies.items()},
        }
    )


def _inputs(
    folders: tuple[str, ...],
    category: str | None,
    tree: str | None,
    parquet: str | None,
    column: str | None,
    keep: tuple[str, ...],
) -> Inputs:
    ways = [bool(folders), tree is not None, parquet is not None]
    if ways.count(True) != 1 or (folders and not category) or (tree and category) or (column and not parquet):
        raise click.UsageError("give --category NAME and FOLDERS, or --tree DIR, or --parquet URL")
    if category and column:
        raise click.UsageError("give --category or --category-column, not both")
    if keep and not parquet:
        raise click.UsageError("--keep names columns of --parquet: give one, or leave it out")
    if own := [name for name in keep if name in OWN_COLUMNS]:
        raise click.UsageError(f"--keep {own[0]}: scores have a column of their own of that name: give it another name")
    return Inputs(
        folders=tuple(_whole(folder) for folder in folders),
        tree=_whole(tree),
        parquet=_whole(parquet),
        category=category,
        category_column=(column or "category") if parquet and not category else None,
        kept=tuple(dict.fromkeys(keep)),
    )


def _whole(place: str | None) -> str | None:
    """A place as every node knows it.

    Raises: PictureError: a path that cannot be written down.
    """
    if place and place != place.encode("utf-8", "replace").decode():
        raise PictureError(f"{place!r}: is not UTF-8: rename it, or give a link to it")
    return place if place is None or "://" in place else str(Path(place).absolute())


def _lies_in(place: str, other: str) -> bool:
    place, other = (one.removeprefix("file://") for one in (place, other))
    if "://" in place or "://" in other:
        return f"{place.rstrip('/')}/".startswith(f"{other.rstrip('/')}/")
    return Path(place).resolve().is_relative_to(Path(other).resolve())


def _connect(workers: int) -> None:
    """Ray with room for the workers; on a machine of one's own that is a matter of asking."""
    connect_ray(slots=workers)
    if (cores := ray.cluster_resources().get("CPU", 0)) < workers:
        click.echo(f"note: Ray has {cores:g} cores for {workers} workers: the others wait for more", err=True)


def _note(store: CategoryStore, ref: VersionRef, rate: float) -> str | None:
    try:
        return shortfall(store.calibration(ref), rate)
    except O2NError as error:  # its rows will say so too, and the other categories have theirs
        return str(error)


if __name__ == "__main__":
    main()
