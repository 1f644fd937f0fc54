"""Measure the embedded foundation: the whole method, few-shot, on pictures it has never seen. CPU is enough.

    python jobs/evaluate_tiny.py --json tiny.json
    python jobs/evaluate_tiny.py --groups textures,digits --draws 1

Prints two tables: how well pictures are told apart, mean ± standard deviation over the draws of the references, and how
long it takes. --json keeps every single figure; what is there already is not measured again, so that a run that was
killed goes on when the same command is given again, or one of more draws.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import as_completed
from functools import partial
from pathlib import Path
from typing import Literal

import click
import numpy as np
from tqdm import tqdm

from o2n.errors import O2NError
from o2n.evaluation import tasks
from o2n.evaluation.figures import Figures, Measured, read_figures
from o2n.evaluation.judge import Judgement, judge
from o2n.evaluation.options import names
from o2n.evaluation.processes import one_thread_processes
from o2n.evaluation.speed import Speed, measure
from o2n.evaluation.tasks import Task
from o2n.options import OneLineErrorsCommand, profile_option
from o2n.profiles import BRANCHES, Profile
from o2n.store import CategoryStore

FOLDERS = {"mnist": "mnist-t10k", "magnetic": "magnetic-tile"}
GROUPS = ("evaluation", "validation", "textures", "digits", "mnist", "magnetic")
COLUMNS = (
    "fused",
    "plain sum",
    "S_P",
    "S_N",
    "S_text",
    "raw patches",
    "nearest picture",
    "random weights",
    "pixel AUROC",
    "AUPRO",
    "error gone",
    "SSIM outside",
)


@click.command(cls=OneLineErrorsCommand)
@click.option(
    "--groups",
    default="evaluation,textures,digits,mnist,magnetic",
    show_default=True,
    callback=names(GROUPS),
    metavar="LIST",
)
@click.option("--draws", default=5, show_default=True, type=click.IntRange(1), help="Draws of the references.")
@click.option(
    "--seeds",
    default=3,
    show_default=True,
    type=click.IntRange(1),
    help="Seeds of the customisation, for the evaluation families.",
)
@click.option(
    "--data", type=click.Path(path_type=Path), help="Folder with mnist-t10k and magnetic-tile. Default: without them."
)
@click.option(
    "--workers",
    default=os.cpu_count() or 1,
    show_default=True,
    type=click.IntRange(1),
    help="Processes, one thread each.",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Keep all figures here; those that are here already are not measured again.",
)
@profile_option
def main(
    groups: list[str], draws: int, seeds: int, data: Path | None, workers: int, json_file: Path | None, profile: Profile
) -> None:
    """Print the quality table of the embedded foundation."""
    folders = {group: data / name for group, name in FOLDERS.items() if data and (data / name).is_dir()}
    missing = [group for group in groups if group in FOLDERS and group not in folders]
    for group in missing:
        where = data / FOLDERS[group] if data else FOLDERS[group]
        click.echo(f"{group} is left out: {where} is not there; give the folder that it is in as --data")
    chosen = [group for group in groups if group not in missing]
    if not chosen:
        return
    measured = Measured.here(profile)
    figures = read_figures(json_file, measured) if json_file else None
    work = {_key(*one): one for one in _work(chosen, draws, seeds, folders, profile)}
    if figures is None:
        with tempfile.TemporaryDirectory() as folder:
            speed = measure(next(iter(work.values()))[0], profile, CategoryStore(folder))
        figures = Figures(measured=measured, seconds=speed)
        if json_file:
            figures.write(json_file)  # a place that cannot be written is told of now, not in minutes
    for one in figures.judgements:
        if (asked := work.get(_of(one))) and asked[0].digest != one.pictures:
            raise O2NError(f"{json_file} holds figures of other pictures of {one.name}: give another --json")
    click.echo(f"{speed_table(figures.seconds)}\n")
    known = {_of(judgement) for judgement in figures.judgements}
    with (
        tempfile.TemporaryDirectory() as folder,
        one_thread_processes(workers) as pool,
        tqdm(total=len(work), initial=len(work.keys() & known), unit="task", mininterval=5) as bar,
    ):
        waiting = [pool.submit(_judge, *one, folder) for key, one in work.items() if key not in known]
        for done in as_completed(waiting):
            figures.judgements.append(done.result())
            bar.update()
            if json_file:
                figures.write(json_file)
    click.echo(table([judgement for judgement in figures.judgements if _of(judgement) in work]))


def table(found: list[Judgement]) -> str:
    """One row per group of tasks, Markdown: the mean over its tasks, ± the deviation between draws of the references; a
    draw's figure is the mean over its seeds, and what these differ by stands below."""
    titles = ["group", "tasks", *COLUMNS, "fused over best branch"]
    lines, told = [f"| {' | '.join(titles)} |", "|" + " --- |" * len(titles)], [""]
    for group in dict.fromkeys(judgement.group for judgement in found):
        mine = [judgement for judgement in found if judgement.group == group]
        means = {column: _means(mine, column, "draw") for column in COLUMNS}
        cells = [group, f"{len({judgement.name for judgement in mine})} × {len(means['fused'])}"]
        cells += [f"{100 * np.mean(v):.1f} ± {100 * np.std(v):.1f}" if v else "" for v in means.values()]
        fused, *branches = (np.mean(means[name]) for name in ("fused", *BRANCHES))
        cells.append(f"{100 * (fused - max(branches)):+.1f}")
        lines.append(f"| {' | '.join(cells)} |")
        first = [judgement for judgement in mine if judgement.draw == min(one.draw for one in mine)]
        if len(seeded := _means(first, "fused", "seed")) > 1:
            told.append(f"{group}, fused, {len(seeded)} seeds of one draw: ± {100 * np.std(seeded):.1f}")
    return "\n".join([*lines, *told]).rstrip()


def _means(found: list[Judgement], column: str, by: Literal["draw", "seed"]) -> list[float]:
    """The mean over all tasks of each draw, or of each seed; none where a task has no such figure."""
    if not all(column in one.figures for one in found):
        return []
    return [
        float(np.mean([one.figures[column] for one in found if getattr(one, by) == number]))
        for number in sorted({getattr(one, by) for one in found})
    ]


def speed_table(speed: Speed) -> str:
    """The same for the times, on all cores of this machine."""
    return "\n".join(
        [
            f"| on {os.cpu_count()} cores | time |",
            "| --- | --- |",
            f"| onboarding one category | {speed.onboarding:.1f} s |",
            f"| scoring one picture | {1000 * speed.alone:.0f} ms |",
            f"| scoring one picture, in batches of 8 | {1000 * speed.in_batch:.0f} ms |",
        ]
    )


def _work(
    groups: list[str], draws: int, seeds: int, folders: dict[str, Path], profile: Profile
) -> Iterator[tuple[Task, int, Profile]]:
    made: dict[str, Callable[[int], list[Task]]] = {
        "evaluation": partial(tasks.families, "evaluation"),
        "validation": partial(tasks.families, "validation"),
        "textures": tasks.textures,
        "digits": tasks.digits,
        "mnist": lambda draw: tasks.mnist(folders["mnist"], draw),
        "magnetic": lambda draw: tasks.magnetic_tile(folders["magnetic"], draw),
    }
    for draw in range(draws):
        for group in groups:
            for task in made[group](draw):
                for seed in range(seeds if draw == 0 and group == "evaluation" else 1):
                    yield task, draw, profile.model_copy(update={"seed": profile.seed + seed})


def _key(task: Task, draw: int, profile: Profile) -> tuple[str, str, int, int]:
    return task.group, task.name, draw, profile.seed


def _of(judgement: Judgement) -> tuple[str, str, int, int]:
    return judgement.group, judgement.name, judgement.draw, judgement.seed


def _judge(task: Task, draw: int, profile: Profile, folder: str) -> Judgement:
    return judge(task, draw, profile, CategoryStore(folder))


if __name__ == "__main__":
    main()
