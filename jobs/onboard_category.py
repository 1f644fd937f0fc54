"""Ray job: onboard one category, or a tree of them side by side.

    ray job submit --working-dir . -- python jobs/onboard_category.py bolts --references /data/bolts/train/good
    ray job submit --working-dir . -- python jobs/onboard_category.py --tree /data

Without a cluster it starts a local one. The last line printed is a JSON summary; the exit status is 1 where any
category failed, and the others are published all the same.
"""

import sys
import time
from pathlib import Path
from typing import Any

import click
import ray

from o2n.errors import CategoryError, O2NError
from o2n.options import (
    OneLineErrorsCommand,
    connect_ray,
    more_normal_option,
    object_option,
    print_json,
    profile_option,
    references_option,
    store_option,
)
from o2n.profiles import Profile
from o2n.store import CategoryStore


@click.command(cls=OneLineErrorsCommand)
@click.argument("name", required=False)
@references_option
@click.option(
    "--tree",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Onboard every folder NAME of DIR that has good pictures in NAME/train/good (MVTec layout) or in NAME itself.",
)
@more_normal_option
@object_option
@profile_option
@store_option
@click.option("--cpus", default=1.0, show_default=True, help="Cores per category.")
@click.option("--gpus", default=0.0, show_default=True, help="GPUs per category; a fraction lets several share one.")
def main(
    name: str | None,
    references: Path | None,
    tree: Path | None,
    more_normal: Path | None,
    object_word: str | None,
    profile: Profile,
    store: CategoryStore,
    cpus: float,
    gpus: float,
) -> None:
    """Onboard category NAME from --references DIR, or all categories of --tree DIR side by side."""
    categories = _categories(name, references, tree)
    if tree and more_normal:
        raise click.UsageError("--more-normal is for one category: give it with NAME and --references")
    connect_ray()
    task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=3)(_onboard_one)
    waiting = {
        task.remote(category, folder, more_normal, object_word, profile, store): category
        for category, folder in categories.items()
    }
    begun = time.perf_counter()
    results: list[dict[str, Any]] = []
    while waiting:
        (done,), _ = ray.wait(list(waiting), num_returns=1)
        category = waiting.pop(done)
        try:
            result = ray.get(done)
        except ray.exceptions.RayError as error:
            result = {
                "category": category,
                "error": {"code": "worker", "message": str(error).splitlines()[0]},
            }
        results.append(result)
        outcome = f"error: {result['error']['message']}" if "error" in result else f"version {result['version']}"
        click.echo(f"[{len(results)}/{len(categories)}] {category}: {outcome}")
        for warning in result.get("warnings", ()):
            click.echo(f"{category}: warning: {warning}")
    failed = sum("error" in result for result in results)
    print_json(
        {
            "published": len(results) - failed,
            "failed": failed,
            "store": store.url,
            "seconds": round(time.perf_counter() - begun, 1),
            "categories": sorted(results, key=lambda result: result["category"]),
        }
    )
    sys.exit(1 if failed else 0)


def _categories(name: str | None, references: Path | None, tree: Path | None) -> dict[str, Path]:
    if (name is None) == (tree is None) or (name is None) != (references is None):
        raise click.UsageError("give either NAME with --references DIR, or --tree DIR")
    if tree is None:
        assert name is not None
        assert references is not None
        return {name: references}
    if not tree.is_dir():
        raise CategoryError(f"tree {tree}: no such folder; give one that has a folder for each category")
    folders = sorted(folder for folder in tree.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    if not folders:
        raise CategoryError(f"tree {tree} has no folders: give one that has a folder for each category")
    return {folder.name: good if (good := folder / "train" / "good").is_dir() else folder for folder in folders}


def _onboard_one(
    category: str,
    folder: Path,
    more_normal: Path | None,
    object_word: str | None,
    profile: Profile,
    store: CategoryStore,
) -> dict[str, Any]:
    """One category on a worker; what a user can mend comes back as data, so that it never sinks the others."""
    from o2n.onboard import onboard, read_more_normal, read_references

    def show(stage: str, done: float) -> None:
        if done in (0.0, 1.0):
            print(f"{category}: {stage} {'done' if done else 'started'}", flush=True)

    try:
        more = read_more_normal(more_normal, profile) if more_normal else []
        result = onboard(category, read_references(folder), profile, store, object_word, show, more)
    except O2NError as error:
        return {"category": category, "error": {"code": error.code, "message": str(error)}}
    return {
        "category": category,
        "version": result.ref.version,
        "warnings": result.warnings,
        "resumed": result.resumed,
        "seconds": result.seconds,
    }


if __name__ == "__main__":
    main()
