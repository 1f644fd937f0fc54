"""Train the embedded foundation from nothing, on procedural pictures alone, and ship its weights.

    python jobs/train_tiny.py                       # everything, then o2n/tiny/**/*.safetensors
    python jobs/train_tiny.py --only diffusion      # one of the trainings
    python jobs/train_tiny.py --larger 4 --drawers 7 --minutes 10    # on a GPU, by the clock
    python jobs/train_tiny.py --only export         # ship what the checkpoints hold

CLIP and the diffusion model are trained side by side. Then CLIP is tuned on what the diffusion model makes of
pictures ("pairs"), which are what it will compare. Every training goes on from its last checkpoint. Logs and sample
grids are in --folder.
"""

import json
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import click

from o2n.options import Number, OneLineErrorsCommand

ROUNDS = (("clip", "diffusion"), ("pairs",))  # the trainings of a round run side by side


@click.command(cls=OneLineErrorsCommand)
@click.option("--folder", type=click.Path(path_type=Path), default=Path("training"), show_default=True)
@click.option(
    "--only",
    type=click.Choice(["clip", "diffusion", "pairs", "export"]),
    help="One of the trainings, or the export alone.",
)
@click.option("--clip-steps", default=9000, show_default=True)
@click.option("--diffusion-steps", default=10000, show_default=True)
@click.option("--pairs-steps", default=2100, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--threads", default=max(1, (os.cpu_count() or 2) // 2), show_default=True, help="CPU threads of each training."
)
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
    seed: int,
    threads: int,
    larger: int,
    drawers: int,
    minutes: float | None,
    begin_from: Path | None,
    into: Path | None,
) -> None:
    """Train the embedded CLIP and diffusion model."""
    steps = {"clip": clip_steps, "diffusion": diffusion_steps, "pairs": pairs_steps}
    context = get_context("spawn")
    for side_by_side in ROUNDS:
        chosen = [name for name in side_by_side if only in (None, name)]
        processes = [
            context.Process(
                target=train,
                args=(name, folder, steps[name], seed, larger, drawers, minutes, threads, begin_from, len(chosen) == 1),
            )
            for name in chosen
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        if any(process.exitcode for process in processes):
            sys.exit(f"error: a training failed, see {folder}/*/log: start again to go on from the last checkpoint")
    if only in (None, "export"):
        click.echo(json.dumps({str(file): file.stat().st_size for file in ship(folder, into)}))


def train(
    name: str,
    folder: Path,
    steps: int,
    seed: int,
    larger: int,
    drawers: int,
    minutes: float | None,
    threads: int,
    begin_from: Path | None,
    aloud: bool,
) -> None:
    """Run one training to its end in this process; its log goes to the terminal only if it is the only one."""
    own = folder / name
    own.mkdir(parents=True, exist_ok=True)
    if not aloud:
        print(f"{name}: progress in {own / 'log'}", flush=True)
        with (own / "log").open("a") as log, redirect_stdout(log), redirect_stderr(log):
            return train(name, folder, steps, seed, larger, drawers, minutes, threads, begin_from, aloud=True)
    import torch

    from o2n.foundation import load_from
    from o2n.profiles import TINY
    from o2n.tiny.clip_training import train_clip
    from o2n.tiny.diffusion_training import train_diffusion
    from o2n.tiny.training import TrainingPlan

    torch.set_num_threads(threads)
    plan = TrainingPlan(own, steps, 1e-3, seed, larger, drawers, 60 * minutes if minutes else None)
    if name == "clip":
        train_clip(load_from(TINY, begin_from).clip, TINY.encoder.levels, plan)
    elif name == "diffusion":
        train_diffusion(load_from(TINY, begin_from).diffusion, plan)
    else:
        ship(folder, own / "begun")
        begun, plan = load_from(TINY, own / "begun"), replace(plan, learning_rate=3e-4, seed=seed + 1)
        train_clip(begun.clip, TINY.encoder.levels, plan, begun.diffusion)
    return None


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
