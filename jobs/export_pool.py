"""Ray job: a category's anomaly-free pictures as a folder in MVTec layout, on which other methods train.

    ray job submit --working-dir . -- python jobs/export_pool.py bolts --count 100 --output /data/augmented

Writes OUTPUT/bolts/train/good/: the references, then generated pictures that pass for normal beside them. Needs no
cluster. The last line printed is a JSON summary.
"""

import time
from pathlib import Path

import click
from PIL import Image
from tqdm import tqdm

from o2n.category import VersionRef
from o2n.errors import CategoryError
from o2n.options import OneLineErrorsCommand, print_json, store_option
from o2n.store import CategoryStore


@click.command(cls=OneLineErrorsCommand)
@click.argument("name")
@click.option("--count", default=100, show_default=True, type=click.IntRange(1), help="Generated pictures.")
@click.option("--output", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Folder to write into.")
@click.option("--version", metavar="ID", help="Of this version instead of the one that serves now.")
@store_option
def main(name: str, count: int, output: Path, version: str | None, store: CategoryStore) -> None:
    """Write --count generated normal pictures of category NAME, beside its references, in MVTec layout."""
    from o2n.export import draw_normal

    ref = store.current(name) if version is None else VersionRef(name, version)
    folder = output / name / "train" / "good"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise CategoryError(f"{folder} has pictures already: give an --output without them")
    except OSError as error:
        raise CategoryError(f"{folder} cannot be made ({error.strerror}): give another --output") from None
    begun = time.perf_counter()
    with tqdm(total=count, desc=name, unit=" pictures", disable=None) as bar:

        def show(done: int) -> None:
            bar.update(done - bar.n)

        references, generated = draw_normal(store, ref, count, show)
    try:
        for kind, pictures in (("0_reference", references), ("1_generated", generated)):
            for number, picture in enumerate(pictures):
                Image.fromarray(picture).save(folder / f"{kind}_{number:05}.png")
    except OSError as error:
        raise CategoryError(f"{folder} cannot be written ({error.strerror}): make room, empty it, run again") from None
    print_json(
        {
            "category": name,
            "version": ref.version,
            "references": len(references),
            "generated": len(generated),
            "folder": str(folder),
            "seconds": round(time.perf_counter() - begun, 1),
        }
    )


if __name__ == "__main__":
    main()
