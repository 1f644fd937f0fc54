"""Train the embedded foundation from nothing, on procedural pictures alone, and ship its weights.

    python jobs/train_tiny.py                       # everything, then o2n/tiny/**/*.safetensors
    python jobs/train_tiny.py --only diffusion      # one of the trainings
    python jobs/train_tiny.py --larger 4 --drawers 7 --minutes 10    # on a GPU, by the clock
    python jobs/train_tiny.py --only export         # ship what the checkpoints hold

CLIP comes first. Its text tower is the diffusion model's text encoder, which is trained next. Then CLIP is tuned on
what that makes of pictures ("pairs"), which are what it will compare. Every training goes on from its last checkpoint.
Sample grids are in --folder.
"""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from o2n.options import Number, OneLineErrorsCommand

if TYPE_CHECKING:
    from o2n.tiny.training import TrainingPlan

TRAININGS = ("clip", "diffusion", "pairs")  # each builds on those before it


@click.command(cls=OneLineErrorsCommand)
@click.option("--folder", type=click.Path(path_type=Path), default=Path("training"), show_default=True)
@click.option(
    "--only",
    type=click.Choice([*TRAININGS, "export"]),
    help="One of the trainings, or the export alone.",
)
@click.option("--clip-steps", default=9000, show_default=True)
@click.option("--diffusion-steps", default=10000, show_default=True)
@click.option("--pairs-steps", default=2100, show_default=True)
@click.option(
    "--learning-rate", default=1e-3, show_default=True, type=Number(0, min_open=True), help="Of clip, diffusion."
)
@click.option("--seed", default=0, show_default=True)
@click.option("--threads", default=os.cpu_count() or 1, show_default=True, type=click.IntRange(1), help="CPU threads.")
@click.option(
    "--larger",
    default=1,
    show_default=True,
    type=click.IntRange(1, 8),
    help="How many times the usual batch: 4 is for a GPU, which is as fast with it.",
)
@click.option(
    "--drawers",
    default=0,
    show_default=True,
    type=click.IntRange(0),
    help="Processes of each training that draw pictures ahead. A GPU wants 7; 0: the training draws its own.",
)
@click.option("--minutes", type=Number(0, min_open=True), help="End each training after so long.")
@click.option(
    "--begin-from",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Weights to begin from, laid out as in o2n/tiny. Default: untrained ones.",
)
@click.option("--into", type=click.Path(path_type=Path), help="Where to ship the weights. Default: o2n/tiny.")
def main(
    folder: Path,
    only: str | None,
    clip_steps: int,
    diffusion_steps: int,
    pairs_steps: int,
    learning_rate: float,
    seed: int,
    threads: int,
    larger: int,
    drawers: int,
    minutes: float | None,
    begin_from: Path | None,
    into: Path | None,
) -> None:
    """Train the embedded CLIP and diffusion model."""
    import torch

    from o2n.tiny.training import TrainingPlan

    torch.set_num_threads(threads)
    seconds = 60 * minutes if minutes else None
    for name, steps in zip(TRAININGS, (clip_steps, diffusion_steps, pairs_steps), strict=True):
        if only in (None, name):
            plan = TrainingPlan(folder / name, steps, learning_rate, seed, larger, drawers, seconds)
            train(name, folder, plan, begin_from)
    if only in (None, "export"):
        click.echo(json.dumps({str(file): file.stat().st_size for file in ship(folder, into)}))


def train(name: str, folder: Path, plan: "TrainingPlan", begin_from: Path | None) -> None:
    """Run one training of those in `folder` to its end."""
    from o2n.foundation import load_from
    from o2n.profiles import TINY
    from o2n.tiny.clip_training import train_clip
    from o2n.tiny.diffusion_training import train_diffusion
    from o2n.tiny.text_tower import read_as_clip
    from o2n.tiny.weights import averaged

    if name == "clip":
        train_clip(load_from(TINY, begin_from).clip, TINY.encoder.levels, plan)
    elif name == "diffusion":
        begun, trained = load_from(TINY, begin_from), folder / "clip" / "checkpoint.pt"
        if begin_from is None or trained.exists():
            begun.clip.model.load_state_dict(averaged(trained)["clip"])
        read_as_clip(begun.diffusion, begun.clip)
        train_diffusion(begun.diffusion, plan)
    else:
        ship(folder, plan.folder / "begun")
        begun, plan = load_from(TINY, plan.folder / "begun"), replace(plan, learning_rate=3e-4, seed=plan.seed + 1)
        train_clip(begun.clip, TINY.encoder.levels, plan, begun.diffusion)


def ship(folder: Path, into: Path | None) -> list[Path]:
    """Export what was trained in `folder`; CLIP as it was tuned on pairs, once it was."""
    from o2n.foundation import EMBEDDED
    from o2n.tiny.weights import export

    into = into or EMBEDDED
    pairs = folder / "pairs" / "checkpoint.pt"
    clip = pairs if pairs.exists() else folder / "clip" / "checkpoint.pt"
    return export(clip, "clip", into) + export(folder / "diffusion" / "checkpoint.pt", "diffusion", into)


if __name__ == "__main__":
    main()
