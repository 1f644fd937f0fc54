"""Ray job: score folders of pictures with Ray Data, categories mixed.

    ray job submit --working-dir . -- python jobs/score_images.py --category bolts /data/new --output /data/scores
    ray job submit --working-dir . -- python jobs/score_images.py --tree /data --output /data/scores

Without a cluster it starts a local one. Scores are written as Parquet; a picture that cannot be read becomes a row
with its error. The last line printed is a JSON summary.
"""

import time
from pathlib import Path

import click
import ray
from ray.data.expressions import col

from o2n import images
from o2n.calibration import shortfall
from o2n.category import VersionRef
from o2n.errors import O2NError, PictureError
from o2n.options import OneLineErrorsCommand, connect_ray, print_json, profile_option, rate_option, store_option
from o2n.profiles import Profile
from o2n.store import CategoryStore


@click.command(cls=OneLineErrorsCommand)
@click.argument("folders", nargs=-1, type=click.Path(path_type=Path))
@click.option("--category", metavar="NAME", help="Score the pictures of FOLDERS with this category.")
@click.option(
    "--tree",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Score DIR/NAME/test/*/* with category NAME, for every folder NAME (MVTec layout).",
)
@click.option("--output", required=True, metavar="DIR", help="Folder or s3:// prefix for the Parquet files.")
@click.option("--workers", default=1, show_default=True, help="Scoring actors, each with the models loaded once.")
@click.option("--gpus", default=0.0, show_default=True, help="GPUs per worker.")
@rate_option
@profile_option
@store_option
def main(
    folders: tuple[Path, ...],
    category: str | None,
    tree: Path | None,
    output: str,
    workers: int,
    gpus: float,
    rate: float,
    profile: Profile,
    store: CategoryStore,
) -> None:
    """Score all pictures of FOLDERS with --category NAME, or a whole --tree DIR."""
    rows = _rows(folders, category, tree)
    connect_ray()
    from o2n.offline import pin_versions, score_dataset

    pinned = pin_versions(store, sorted({row["category"] for row in rows}))
    notes = {name: note for name, ref in pinned.items() if (note := _note(store, ref, rate))}
    begun = time.perf_counter()
    pictures = ray.data.from_items(rows)
    scored = score_dataset(pictures, profile, store, pinned, rate=rate, workers=workers, gpus_per_worker=gpus)
    scored.write_parquet(output, mode="overwrite")
    seconds = time.perf_counter() - begun
    errors = ray.data.read_parquet(output).filter(expr=col("error").is_not_null()).count()
    anomalous = ray.data.read_parquet(output).filter(expr=col("is_anomalous")).count()
    print_json(
        {
            "pictures": len(rows),
            "errors": errors,
            "anomalous": anomalous,
            "versions": {name: ref.version for name, ref in pinned.items()},
            "notes": notes,
            "output": output,
            "seconds": round(seconds, 1),
            "pictures_per_second": round(len(rows) / seconds, 2),
        }
    )


def _note(store: CategoryStore, ref: VersionRef, rate: float) -> str | None:
    try:
        return shortfall(store.calibration(ref), rate)
    except O2NError as error:  # its rows will say so too, and the other categories have theirs
        return str(error)


def _rows(folders: tuple[Path, ...], category: str | None, tree: Path | None) -> list[dict[str, str]]:
    if (tree is None) == (category is None) or (category is None) != (not folders):
        raise click.UsageError("give either --category NAME and FOLDERS, or --tree DIR")
    if tree is None:
        found = [(category, path) for folder in folders for path in images.find(folder)]
    else:
        found = [
            (part.parent.parent.name, path)
            for part in sorted(tree.glob("*/test/*"))
            if part.is_dir()
            for path in images.find(part)
        ]
    if not found:
        raise PictureError(f"no pictures in {tree or ', '.join(map(str, folders))}: give folders that have some")
    return [{"path": str(path.absolute()), "category": str(name)} for name, path in found]


if __name__ == "__main__":
    main()
