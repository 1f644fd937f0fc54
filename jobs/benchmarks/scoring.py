"""The library stage by stage: time, arithmetic and memory of everything that onboarding and scoring do."""

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from jobs.benchmarks.figures import json_option, keep, machine, machine_line, make_task, shares
from o2n.data.procedural import EVALUATION
from o2n.evaluation.blank import blank_paper
from o2n.evaluation.options import numbers
from o2n.evaluation.speed import (
    Stage,
    flops_per_second,
    onboarding_stages,
    personalise_stage,
    scoring_stages,
    whole_score,
)
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
    callback=numbers(1),
    metavar="LIST",
    help="Batches that are tried, beside single pictures.",
)
@click.option("--rounds", default=5, show_default=True, help="Runs of every stage; the median counts.")
@click.option(
    "--random-weights",
    is_flag=True,
    help="Models of the profile's architecture (paper, fast) without their weights, which change no time.",
)
@json_option
@profile_option
def scoring(
    batches: tuple[int, ...], rounds: int, random_weights: bool, json_file: Path | None, profile: Profile
) -> None:
    """Time, arithmetic and memory of every stage of onboarding and scoring, alone and in the best batch."""
    if random_weights and profile.name not in ("paper", "fast"):
        raise click.BadParameter("only paper and fast need any: leave it out", param_hint="--random-weights")
    batches = tuple(sorted({1, *batches}))
    with (
        tempfile.TemporaryDirectory() as folder,
        tqdm(total=7 + len(batches), unit="stage", bar_format="{desc:32} {n_fmt}/{total_fmt} {elapsed}") as bar,
    ):

        def step(what: str) -> None:
            bar.update()
            bar.set_description_str(what)

        def told(stage: Stage) -> Stage:
            """A long run that is stopped has told what it had measured."""
            share = stage.flops / stage.seconds / limit
            bar.write(
                f"{stage.name}, {stage.pictures} pictures: {1000 * stage.seconds:.1f} ms, {share:.0%} of the limit"
            )
            return stage

        step(f"writing 6 GB of weights to {folder}" if random_weights else "loading models")
        if random_weights:
            profile = blank_paper(profile, Path(folder) / "models")
        foundation = load_foundation(profile)
        model = foundation.diffusion
        limit = flops_per_second(model.device, model.unet.conv_in.weight.dtype)
        task = make_task(EVALUATION[0], batches[-1], profile)
        store = CategoryStore((Path(folder) / "store").as_uri())
        step("onboarding, stage by stage")
        onboarding = [told(stage) for stage in onboarding_stages(task, foundation, rounds)]
        step("onboarding a category to score")
        ref = onboard(task.name, task.references, profile, store, task.object_word).ref
        whole: dict[int, Stage] = {}
        for size in batches:
            step(f"whole score, batch of {size}")
            whole[size] = told(whole_score(profile, store, task.queries[:size], [ref] * size, rounds))
        best = min(batches, key=lambda size: whole[size].seconds / size)
        branches: dict[int, list[Stage]] = {}
        prompts: dict[int, list[Stage]] = {}
        for size in sorted({1, best}):
            queries = task.queries[:size]
            step(f"branches, batch of {size}")
            branches[size] = [told(one) for one in scoring_stages(foundation, store, queries, [ref] * size, rounds)]
            step(f"prompts, batch of {size}")
            ways = [(1, True), (3, True)] + [(3, False)] * (model.device.type == "cuda")
            prompts[size] = [
                told(personalise_stage(foundation, store, queries, ref, count, rounds, graphs))
                for count, graphs in ways
            ]

    def row(stage: Stage) -> dict[str, Any]:
        relative = stage.seconds / stage.pictures / whole[1].seconds
        return {**asdict(stage), "relative": relative, "limit_share": stage.flops / stage.seconds / limit}

    report = {
        "machine": machine(),
        "profile": profile.name,
        "random_weights": random_weights,
        "best_batch": best,
        "limit_flops_per_second": limit,
        "onboarding": [row(stage) for stage in onboarding],
        "whole": [row(stage) for stage in whole.values()],
        "stages": {str(size): [row(stage) for stage in branches[size] + prompts[size]] for size in branches},
        "shares": {str(size): shares({s.name: s.seconds for s in stages}) for size, stages in branches.items()},
    }
    click.echo(_scoring_table(report))
    keep(json_file, report)


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
            f"{stage['flops'] / 1e12:.3g}",
            f"{100 * stage['limit_share']:.0f}%",
            *memory,
        ]
        return f"| {' | '.join(str(cell) for cell in cells)} |"

    return "\n".join(
        [
            f"{report['profile']}; {machine_line(report['machine'])}; best batch {best}; limit, a large matrix product "
            f"in the diffusion model's precision: {report['limit_flops_per_second'] / 1e12:.3g} TFLOP a second",
            "",
            "| stage | pictures | ms | a picture's, to one scored alone | share of a score | TFLOP "
            "| share of the limit | peak MiB | added MiB |",
            "| --- " * 9 + "|",
            *(row(stage) for stage in report["onboarding"]),
            *(row(stage) for stage in report["whole"]),
            *(row(stage, size) for size, stages in report["stages"].items() for stage in stages),
        ]
    )
