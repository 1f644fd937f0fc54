"""Ray job: train the text branch's linear maps (eq. 6) on an auxiliary set with masks.

    ray job submit --working-dir . -- python jobs/train_text_map.py /data/visa --trained-on visa \\
        --profile paper --output visa.safetensors

The set lies as it was published, or in MVTec layout. Needs no cluster. Name the file in a profile's `text_map`. It says
what it was trained on, and evaluating on that is refused: use VisA for MVTec AD, and MVTec AD for everything else. The
last line printed is a JSON summary.
"""

import os
import time
from pathlib import Path

import click
from tqdm import tqdm

from o2n.errors import O2NError
from o2n.options import OneLineErrorsCommand, print_json, profile_option
from o2n.profiles import Profile


@click.command(cls=OneLineErrorsCommand)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--trained-on",
    required=True,
    metavar="NAME",
    help="What is in FOLDER: visa, mvtec or another data set of docs/datasets.md as published, or else, whatever the "
    "name, a folder in MVTec layout.",
)
@click.option("--output", required=True, type=click.Path(path_type=Path), metavar="FILE", help="The map to write.")
@click.option("--steps", default=2000, show_default=True, type=click.IntRange(1))
@click.option(
    "--batch", default=8, show_default=True, type=click.IntRange(2), help="Pictures a step, half of them good."
)
@click.option("--seed", default=0, show_default=True)
@profile_option
def main(folder: Path, trained_on: str, output: Path, steps: int, batch: int, seed: int, profile: Profile) -> None:
    """Train on the test pictures and masks of FOLDER, for the encoder and the levels of --profile."""
    from o2n.foundation import load_foundation
    from o2n.text_map import MAX_NAME, write_map
    from o2n.text_training import read_auxiliary, train_text_map

    if output.is_dir() or not output.parent.is_dir() or not os.access(output.parent, os.W_OK):
        raise O2NError(f"--output {output} cannot be written: give a file in a folder of yours that exists")
    if not 0 < len(trained_on) <= MAX_NAME:
        raise click.UsageError(f"--trained-on {trained_on[:40]!r}: give a name of 1 to {MAX_NAME} characters")
    categories = read_auxiliary(folder, trained_on)
    begun = time.perf_counter()
    with tqdm(total=steps, unit="step", disable=None) as bar:

        def show(step: int, loss: float) -> None:
            bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
            bar.update()

        maps, card = train_text_map(
            load_foundation(profile).clip,
            profile.encoder.levels,
            categories,
            trained_on,
            steps=steps,
            batch=batch,
            seed=seed,
            on_step=show,
        )
    output.write_bytes(write_map(maps, card))
    print_json(
        {
            "trained_on": trained_on,
            "pictures": len(card.pictures),
            "loss": card.loss,
            "output": str(output),
            "seconds": round(time.perf_counter() - begun, 1),
        }
    )


if __name__ == "__main__":
    main()
