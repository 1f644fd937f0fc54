"""Measure whether promised false-positive rates are kept: a thousand calibrations on pictures no model has seen.

    python jobs/evaluate_promise.py
    python jobs/evaluate_promise.py --families nut,twill --draws 1

Prints a table of the realised rates, by what was calibrated on. Takes about 90 seconds per family and draw on one core.
"""

import json
import os
import tempfile
from concurrent.futures import as_completed
from dataclasses import asdict
from pathlib import Path

import click
from tqdm import tqdm

from o2n.data.families import FAMILIES
from o2n.data.procedural import VALIDATION
from o2n.evaluation.options import names
from o2n.evaluation.processes import one_thread_processes
from o2n.evaluation.promise import NormalScores, normal_scores, realised
from o2n.options import OneLineErrorsCommand, profile_option
from o2n.profiles import Profile
from o2n.store import CategoryStore

RATES = (0.05, 0.1, 0.2)
# Extra normal pictures, and whether the references are calibrated on too.
WAYS = ((0, True), (20, False), (20, True), (60, False), (60, True))


@click.command(cls=OneLineErrorsCommand)
@click.option("--families", default=",".join(VALIDATION), show_default=True, callback=names(FAMILIES), metavar="LIST")
@click.option("--draws", default=3, show_default=True, type=click.IntRange(1), help="Draws of the four references.")
@click.option(
    "--workers",
    default=os.cpu_count() or 1,
    show_default=True,
    type=click.IntRange(1),
    help="Processes, one thread each.",
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Keep all scores here.")
@profile_option
def main(families: list[str], draws: int, workers: int, json_file: Path | None, profile: Profile) -> None:
    """Print requested, promised and realised false-positive rates."""
    work = [(family, number) for number in range(draws) for family in families]
    with tempfile.TemporaryDirectory() as folder, one_thread_processes(workers) as pool:
        waiting = [pool.submit(normal_scores, *piece, profile, CategoryStore(folder)) for piece in work]
        for done in tqdm(as_completed(waiting), total=len(waiting), unit="category", mininterval=5):
            done.result()  # an error is told at once
            if json_file:
                scored = [piece.result() for piece in waiting if piece.done()]
                json_file.write_text(json.dumps([asdict(scores) for scores in scored], indent=1))
    click.echo(table([piece.result() for piece in waiting]))


def table(scored: list[NormalScores]) -> str:
    """Markdown: a row for each way to calibrate and each requested rate."""
    lines = ["| extra normal pictures | references | requested | promised | realised |", "|" + " --- |" * 5]
    for extras, with_references in WAYS:
        for rate in RATES:
            found = realised(scored, rate, extras, with_references=with_references)
            lines.append(
                f"| {extras} | {'too' if with_references else 'no'} | {100 * rate:g}% | {100 * found.promised:.1f}% | "
                f"{100 * found.realised:.1f}% ± {100 * found.deviation:.1f} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
