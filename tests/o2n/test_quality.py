"""What the embedded models are worth, on families and defects that their training never saw.

The bars have slack below what `jobs/evaluate_tiny.py` measures, and lie well above guessing and an untrained encoder.
"""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from o2n.data.procedural import EVALUATION, VALIDATION
from o2n.evaluation import tasks
from o2n.evaluation.judge import judge
from o2n.foundation import load_foundation
from o2n.profiles import TINY
from o2n.store import CategoryStore
from o2n.tiny.diffusion_training import look

CHOSEN = EVALUATION[::5]


@pytest.fixture(scope="module")
def mean(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """Every figure's mean over the chosen families."""
    store = CategoryStore(tmp_path_factory.mktemp("store").as_uri())
    found = [
        judge(task, 0, TINY, store).figures for task in tasks.families("evaluation", 0, each=20) if task.name in CHOSEN
    ]
    return {name: float(np.mean([figures[name] for figures in found])) for name in found[0]}


def test_defects_are_found(mean: dict[str, float]) -> None:
    assert mean["fused"] >= 0.82
    assert mean["fused"] >= mean["raw patches"] + 0.03
    assert mean["fused"] >= mean["random weights"] + 0.1


@pytest.mark.parametrize(("branch", "bar"), [("S_P", 0.65), ("S_N", 0.82), ("S_text", 0.65)])
def test_every_branch_sees_something(mean: dict[str, float], branch: str, bar: float) -> None:
    assert mean[branch] >= bar


def test_defects_are_found_where_they_are(mean: dict[str, float]) -> None:
    assert mean["pixel AUROC"] >= 0.8
    assert mean["AUPRO"] >= 0.5


def test_counterparts_lose_the_defect_and_keep_the_rest(mean: dict[str, float]) -> None:
    assert mean["error gone"] >= 0.2
    assert mean["SSIM outside"] >= 0.7


def test_a_defect_goes_without_an_adapter_too_where_the_prompt_says_so(tmp_path: Path) -> None:
    redrawn = look(load_foundation(TINY).diffusion, tmp_path / "redrawn.png")
    assert set(redrawn.gone) == set(VALIDATION)
    assert np.mean([*redrawn.gone.values()]) >= 0.25
    assert redrawn.gone_abnormal <= 0.15
    assert redrawn.like >= 0.7
    assert Image.open(tmp_path / "redrawn.png").size == (4 * 4 * 64, len(VALIDATION) * 64)


def test_defects_of_a_photograph_are_found(tmp_path: Path) -> None:
    (brick,) = (task for task in tasks.textures(0, each=8) if task.name == "brick")
    figures = judge(brick, 0, TINY, CategoryStore(tmp_path.as_uri())).figures
    assert figures["fused"] >= 0.9
    assert figures["fused"] >= figures["raw patches"] + 0.02
    assert figures["pixel AUROC"] >= 0.9


def test_the_default_profile_is_the_embedded_one() -> None:
    from click.testing import CliRunner

    from o2n.cli import main

    shown = CliRunner().invoke(main, ["onboard", "--help"]).output
    assert "default: tiny" in shown
