"""Train the embedded foundation from nothing, on procedural pictures alone, and ship its weights.

    python jobs/train_tiny.py                       # both trainings side by side, then o2n/tiny/*.safetensors
    python jobs/train_tiny.py --only diffusion      # one of them
    python jobs/train_tiny.py --only export         # ship what the checkpoints hold

Both go on from their last checkpoint. Logs and sample grids are in --folder.
"""

import json
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing import get_context
from pathlib import Path

import click

from o2n.options import OneLineErrorsCommand

TRAININGS = ("clip", "diffusion")


@click.command(cls=OneLineErrorsCommand)
@click.option("--folder", type=click.Path(path_type=Path), default=Path("training"), show_default=True)
@click.option("--only", type=click.Choice([*TRAININGS, "export"]), help="One of the trainings, or the export alone.")
@click.option("--clip-steps", default=24000, show_default=True)
@click.option("--diffusion-steps", default=20000, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--threads", default=max(1, (os.cpu_count() or 2) // 2), show_default=True, help="CPU threads of each training."
)
@click.option("--into", type=click.Path(path_type=Path), help="Where to ship the weights. Default: o2n/tiny.")
def main(
    folder: Path,
    only: str | None,
    clip_steps: int,
    diffusion_steps: int,
    seed: int,
    threads: int,
    into: Path | None,
) -> None:
    """Train the embedded CLIP and diffusion model."""
    steps = {"clip": clip_steps, "diffusion": diffusion_steps}
    chosen = [name for name in TRAININGS if only in (None, name)]
    context = get_context("spawn")
    processes = [
        context.Process(target=train, args=(name, folder / name, steps[name], seed, threads, len(chosen) == 1))
        for name in chosen
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        sys.exit(f"error: a training failed, see {folder}/*/log: start again to go on from the last checkpoint")
    from o2n.foundation import EMBEDDED
    from o2n.tiny.weights import export

    written = export(folder, into or EMBEDDED)
    click.echo(json.dumps({str(file): file.stat().st_size for file in written}))


def train(name: str, folder: Path, steps: int, seed: int, threads: int, aloud: bool) -> None:
    """Run one training to its end in this process; its log goes to the terminal only if it is the only one."""
    folder.mkdir(parents=True, exist_ok=True)
    if not aloud:
        print(f"{name}: progress in {folder / 'log'}", flush=True)
        with (folder / "log").open("a") as log, redirect_stdout(log), redirect_stderr(log):
            return train(name, folder, steps, seed, threads, aloud=True)
    import torch

    from o2n.foundation import load_untrained
    from o2n.profiles import TINY
    from o2n.tiny.clip_training import train_clip
    from o2n.tiny.diffusion_training import train_diffusion
    from o2n.tiny.training import Plan

    torch.set_num_threads(threads)
    foundation = load_untrained(TINY)
    if name == "clip":
        train_clip(foundation.clip, TINY.encoder.levels, Plan(folder, steps, 1.5e-3, seed))
    else:
        train_diffusion(foundation.diffusion, Plan(folder, steps, 1e-3, seed))
    return None


if __name__ == "__main__":
    main()
