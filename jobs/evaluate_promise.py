"""Measure whether promised false-positive rates are kept: a thousand calibrations on pictures no model has seen.

    python jobs/evaluate_promise.py
    python jobs/evaluate_promise.py --families nut,twill --draws 1

Prints a table of the realised rates, by what was calibrated on. Takes about 70 seconds per family and draw on two
cores.
"""

import json
import tempfile
from dataclasses import asdict
from pathlib import Path

import click
from tqdm import tqdm

from o2n.data.procedural import VALIDATION
from o2n.evaluation.promise import NormalScores, normal_scores, realised
from o2n.options import OneLineErrorsCommand, profile_option
from o2n.profiles import Profile
from o2n.store import CategoryStore

RATES = (0.05, 0.1, 0.2)
# Extra normal pictures, and whether the references are calibrated on too.
WAYS = ((0, True), (20, False), (20, True), (60, False), (60, True))


@click.command(cls=OneLineErrorsCommand)
@click.option("--families", default=",".join(VALIDATION), show_default=True, metavar="LIST")
@click.option("--draws", default=3, show_default=True, help="Draws of the four references.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Keep all scores here.")
@profile_option
def main(families: str, draws: int, json_file: Path | None, profile: Profile) -> None:
    """Print requested, promised and realised false-positive rates."""
    work = [(family, number) for number in range(draws) for family in families.split(",")]
    scored: list[NormalScores] = []
    with tempfile.TemporaryDirectory() as folder:
        for family, number in tqdm(work, unit="category", mininterval=5):
            scored.append(normal_scores(family, number, profile, CategoryStore(folder)))
            if json_file:
                json_file.write_text(json.dumps([asdict(scores) for scores in scored], indent=1))
    click.echo(table(scored))


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
