"""The table of the evaluation: means over tasks, deviations between draws, and the best branch beside the fusion."""

from dataclasses import replace
from pathlib import Path

from click.testing import CliRunner

from jobs.evaluate_tiny import COLUMNS, main, speed_table, table
from o2n.data.datasets.mnist import WORDS
from o2n.evaluation.figures import Figures, Measured
from o2n.evaluation.judge import Judgement
from o2n.evaluation.speed import Speed
from o2n.evaluation.tasks import digits
from tests.helpers import QUICK


def judgement(name: str, draw: int, fused: float, seed: int = 0) -> Judgement:
    figures = dict.fromkeys(COLUMNS, 0.5) | {"fused": fused, "S_P": 0.6, "S_N": 0.7, "S_text": 0.55}
    return Judgement("group", name, draw, seed, "", figures)


def cells(text: str) -> dict[str, str]:
    titles, _, row = ([cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines())
    return dict(zip(titles, row, strict=True))


def test_a_row_is_the_mean_over_tasks_and_the_deviation_between_draws() -> None:
    found = [judgement("a", 0, 0.7), judgement("b", 0, 0.9), judgement("a", 1, 0.8), judgement("b", 1, 1.0)]
    row = cells(table(found))
    assert row["tasks"] == "2 × 2"
    assert row["fused"] == "85.0 ± 5.0"
    assert row["S_N"] == "70.0 ± 0.0"
    assert row["fused over best branch"] == "+15.0"


def test_seeds_of_one_draw_count_as_one_draw() -> None:
    found = [judgement("a", 1, 1.0)] + [judgement("a", 0, fused, seed) for seed, fused in enumerate((0.7, 0.8, 0.9))]
    text = table(found)
    row = cells("\n".join(text.splitlines()[:3]))
    assert row["tasks"] == "1 × 2"
    assert row["fused"] == "90.0 ± 10.0"
    assert row["fused over best branch"] == "+20.0"
    assert text.splitlines()[-1] == "group, fused, 3 seeds of one draw: ± 8.2"


def test_a_figure_that_some_tasks_lack_is_left_out() -> None:
    found = [judgement("a", 0, 0.7)]
    del found[0].figures["AUPRO"]
    assert cells(table(found))["AUPRO"] == ""


def test_times_are_told_in_seconds_and_milliseconds() -> None:
    text = speed_table(Speed(onboarding=12.34, alone=0.25, in_batch=0.0625))
    assert "12.3 s" in text
    assert "250 ms" in text
    assert "62 ms" in text


def test_an_unknown_group_is_refused_before_any_work() -> None:
    done = CliRunner().invoke(main, ["--groups", "evaluation,nothing"])
    assert done.exit_code == 2
    assert "nothing unknown: choose from evaluation" in done.output


def test_groups_whose_pictures_are_not_there_are_left_out(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["--groups", "mnist,magnetic", "--data", str(tmp_path)], catch_exceptions=False)
    assert done.exit_code == 0
    assert done.output.count("is left out") == 2
    assert str(tmp_path / "magnetic-tile") in done.output


def test_a_run_that_was_killed_measures_only_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "quick.json").write_text(QUICK.model_dump_json())
    file = tmp_path / "figures.json"
    known = [
        replace(judgement(task.name, draw, 0.75), group=task.group, pictures=task.digest)
        for draw in (0, 1)
        for task in digits(draw)[:9]
    ]
    kept = Figures(measured=Measured.here(QUICK), seconds=Speed(12.34, 0.25, 0.0625), judgements=known)
    kept.write(file)
    arguments = ["--groups", "digits", "--draws", "1", "--profile", str(tmp_path / "quick.json"), "--json", str(file)]
    done = CliRunner().invoke(main, [*arguments, "--workers", "1"], catch_exceptions=False)
    assert done.exit_code == 0
    found = Figures.model_validate_json(file.read_bytes())
    assert (found.measured, found.seconds, found.judgements[:-1]) == (kept.measured, kept.seconds, known)
    new = found.judgements[-1]
    assert (new.group, new.name, new.draw, new.seed) == ("scikit-learn digits", WORDS[9], 0, 0)
    assert 0.5 < new.figures["S_N"] <= 1
    assert table([*known[:9], new]) in done.output  # of the draws that were asked for
    before = file.read_bytes()
    assert table([*known[:9], new]) in CliRunner().invoke(main, arguments, catch_exceptions=False).output
    assert file.read_bytes() == before

    known[0] = replace(known[0], pictures="of another set")
    kept.model_copy(update={"judgements": known}).write(file)
    before = file.read_bytes()
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 1
    assert f"figures.json holds figures of other pictures of {WORDS[0]}: give another --json" in done.output
    assert file.read_bytes() == before
