"""Tables and pictures -> files to read: Markdown, CSV, and one HTML page that needs no other file."""

import base64
import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from o2n.errors import O2NError
from o2n.evaluation.tables import Figure, Row, Table


@dataclass(frozen=True)
class Sheet:
    """A picture of pictures: `name` of its file, a PNG."""

    name: str
    caption: str
    png: bytes


@dataclass(frozen=True)
class Report:
    """title; notes: paragraphs before the tables; facts: label and value of all that made these figures."""

    title: str
    notes: tuple[str, ...]
    tables: tuple[Table, ...]
    sheets: tuple[Sheet, ...]
    facts: tuple[tuple[str, str], ...]


def write(report: Report, folder: Path) -> list[Path]:
    """`results.md` and `results.html` in `folder`, CSV files and pictures in its `results`.

    Returns: the files written.

    Raises:
        O2NError: a file that cannot be written.
    """
    below = folder / "results"
    try:
        below.mkdir(parents=True, exist_ok=True)
        files = {folder / "results.md": _markdown(report), folder / "results.html": _page(report)}
        for file, text in files.items():
            file.write_text(text, encoding="utf-8")
        for table in report.tables:
            _write_csv(table, below / f"{table.name}.csv")
        for sheet in report.sheets:
            (below / sheet.name).write_bytes(sheet.png)
    except OSError as error:
        raise O2NError(f"results in {folder} cannot be written ({error.strerror}): give another --output") from None
    return [*files, *(below / f"{table.name}.csv" for table in report.tables), *(below / s.name for s in report.sheets)]


def is_best(cell: Figure, row: Row, table: Table) -> bool:
    """Whether no figure of the row is higher, as far as one sees, and the table marks that."""
    means = [round(other.mean, 1) for other in row.cells if isinstance(other, Figure)]
    return table.best and len(means) > 1 and round(cell.mean, 1) == max(means)


def in_words(number: float | None, deviation: float | None) -> str:
    """`84.1 ± 2.0`"""
    return f"{number:.1f}" + (f" ± {deviation:.1f}" if deviation is not None else "")


def markdown(table: Table) -> str:
    """The table alone; what a figure is held against stands below it, with the difference."""
    lines = [f"| {' | '.join(table.heads)} |", "|" + " --- |" * len(table.heads)]
    for row in table.rows:
        cells = [*row.labels]
        for cell in row.cells:
            if not isinstance(cell, Figure):
                cells.append(cell or "")
                continue
            mean = f"**{cell.mean:.1f}**" if is_best(cell, row, table) else f"{cell.mean:.1f}"
            text = mean if cell.deviation is None else f"{mean} ± {cell.deviation:.1f}"
            if cell.against is not None:
                other = in_words(cell.against, cell.against_deviation)
                text += f"<br>{table.against} {other}, **{cell.difference:+.1f}**"
            cells.append(text)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _markdown(report: Report) -> str:
    parts = [f"# {report.title}", *report.notes]
    for table in report.tables:
        parts += [f"## {table.title}", *([table.note] if table.note else []), markdown(table)]
    if report.sheets:
        parts.append("## Pictures")
    for sheet in report.sheets:
        parts += [sheet.caption, f"![{sheet.caption}](results/{sheet.name})"]
    facts = "\n".join(f"- **{label}**: {value}" for label, value in report.facts)
    return "\n\n".join([*parts, "## What made these figures", facts]) + "\n"


def _page(report: Report) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.tests["figure"] = lambda cell: isinstance(cell, Figure)
    return environment.get_template("results.html.jinja").render(
        report=report,
        is_best=is_best,
        in_words=in_words,
        data=lambda png: f"data:image/png;base64,{base64.b64encode(png).decode()}",
    )


def _write_csv(table: Table, file: Path) -> None:
    labels = table.heads[: len(table.rows[0].labels)]
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened, lineterminator="\n")
        other = (table.against, f"{table.against}, deviation", "difference")
        writer.writerow([*labels, "column", "mean", "deviation", "draws", *other])
        for row in table.rows:
            for head, cell in zip(table.heads[len(labels) :], row.cells, strict=True):
                writer.writerow([*row.labels, head, *_numbers(cell)])


def _numbers(cell: Figure | str | None) -> Sequence[str | int]:
    if not isinstance(cell, Figure):
        return [cell or "", "", "", "", "", ""]
    own, against = ("" if one is None else f"{one:.2f}" for one in (cell.deviation, cell.against_deviation))
    other = ("", "", "") if cell.against is None else (f"{cell.against:.2f}", against, f"{cell.difference:+.2f}")
    return [f"{cell.mean:.2f}", own, cell.draws, *other]
