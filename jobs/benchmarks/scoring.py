"""The library stage by stage: time and memory of everything that onboarding and scoring do."""

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from jobs.benchmarks.figures import json_option, keep, machine, machine_line, make_task, shares
from o2n.data.procedural import EVALUATION
from o2n.evaluation.speed import Stage, onboarding_stages, personalise_stage, scoring_stages, whole_score
from o2n.foundation import load_foundation
from o2n.onboard import onboard
from o2n.options import profile_option
from o2n.profiles import Profile
from o2n.store import CategoryStore


@click.command()
@click.option(
    "--batches",
    default="1,2,4,8,16,32",
    show_default=True,
    callback=lambda context, parameter, text: _sizes(text),
    metavar="LIST",
    help="Batches that are tried.",
)
@click.option("--rounds", default=5, show_default=True, help="Runs of every stage; the median counts.")
@json_option
@profile_option
def scoring(batches: list[int], rounds: int, json_file: Path | None, profile: Profile) -> None:
    """Time and memory of every stage of onboarding and scoring, alone and in the best batch."""
    foundation = load_foundation(profile)
    task = make_task(EVALUATION[0], batches[-1], profile)
    with (
        tempfile.TemporaryDirectory() as folder,
        tqdm(total=6 + len(batches), unit="stage", bar_format="{desc:32} {n_fmt}/{total_fmt} {elapsed}") as bar,
    ):

        def step(what: str) -> None:
            bar.update()
            bar.set_description_str(what)

        store = CategoryStore(Path(folder).as_uri())
        step("onboarding, stage by stage")
        onboarding = onboarding_stages(task, foundation, rounds)
        step("onboarding a category to score")
        ref = onboard(task.name, task.references, profile, store, task.object_word).ref
        whole: dict[int, Stage] = {}
        for size in batches:
            step(f"whole score, batch of {size}")
            whole[size] = whole_score(profile, store, task.queries[:size], [ref] * size, rounds)
        best = min(batches, key=lambda size: whole[size].seconds / size)
        at: dict[int, list[Stage]] = {}
        for size in sorted({1, best}):
            queries = task.queries[:size]
            step(f"branches, batch of {size}")
            at[size] = list(scoring_stages(foundation, store, queries, [ref] * size, rounds).values())
            step(f"prompts, batch of {size}")
            at[size] += [personalise_stage(foundation, store, queries, ref, count, rounds) for count in (1, 3)]
    unit = whole[1].seconds
    report = {
        "machine": machine(),
        "profile": profile.name,
        "best_batch": best,
        "onboarding": [_row(stage, unit) for stage in onboarding.values()],
        "whole": [_row(stage, unit) for stage in whole.values()],
        "stages": {str(size): [_row(stage, unit) for stage in stages] for size, stages in at.items()},
        "shares": {str(size): shares({s.name: s.seconds for s in stages[:-2]}) for size, stages in at.items()},
    }
    click.echo(_scoring_table(report))
    keep(json_file, report)


def _sizes(text: str) -> list[int]:
    """Batch sizes in ascending order, 1 always among them."""
    try:
        sizes = {1, *map(int, text.split(","))}
    except ValueError:
        raise click.BadParameter(f"{text!r} is no list of numbers such as 1,4,16") from None
    if min(sizes) < 1:
        raise click.BadParameter(f"{min(sizes)} pictures are no batch")
    return sorted(sizes)


def _row(stage: Stage, unit: float) -> dict[str, Any]:
    """A stage's figures; `relative` is a picture's time beside the whole score of one picture alone."""
    return {**asdict(stage), "relative": stage.seconds / stage.pictures / unit}


def _scoring_table(report: dict[str, Any]) -> str:
    best = report["best_batch"]
    shares = {(size, name): share for size, all_ in report["shares"].items() for name, share in all_.items()}

    def row(stage: dict[str, Any], batch: str = "") -> str:
        share = shares.get((batch, stage["name"]))
        memory = [f"{v / 2**20:.0f}" if v is not None else "?" for v in (stage["peak_bytes"], stage["added_bytes"])]
        cells = [
            stage["name"],
            stage["pictures"],
            f"{1000 * stage['seconds']:.1f}",
            f"{stage['relative']:.3f}",
            f"{100 * share:.1f}%" if share is not None else "",
            *memory,
        ]
        return f"| {' | '.join(str(cell) for cell in cells)} |"

    return "\n".join(
        [
            f"{report['profile']}; {machine_line(report['machine'])}; best batch {best}",
            "",
            "| stage | pictures | ms | a picture's, to one scored alone | share of a score | peak MiB | added MiB |",
            "| --- " * 7 + "|",
            *(row(stage) for stage in report["onboarding"]),
            *(row(stage) for stage in report["whole"]),
            *(row(stage, size) for size, stages in report["stages"].items() for stage in stages),
        ]
    )
