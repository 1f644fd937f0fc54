"""AnomalyDINO: turned parts are known, and it runs on a timm transformer."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch

from o2n.evaluation.methods import METHODS
from o2n.evaluation.methods.anomaly_dino import AnomalyDINO
from o2n.evaluation.methods.nearest_patch import NearestPatch
from o2n.evaluation.protocol import revision
from o2n.foundation import Foundation
from tests.helpers import QUICK, stripes


def write_dino(folder: Path, mean: float = 0.5) -> str:
    """A small transformer with random weights, always the same ones, in timm's hub layout; returns its folder."""
    torch.manual_seed(0)
    architecture, sizes = "vit_tiny_patch16_224", {"embed_dim": 24, "depth": 4, "num_heads": 2, "num_classes": 0}
    model = timm.create_model(architecture, pretrained=False, img_size=64, **sizes)
    config = {
        "architecture": architecture,
        "num_classes": 0,
        "model_args": {"img_size": 64, **sizes},
        "pretrained_cfg": {"input_size": [3, 64, 64], "mean": [mean] * 3, "std": [0.5] * 3, "num_classes": 0},
    }
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    safetensors.torch.save_file(model.state_dict(), folder / "model.safetensors")
    return str(folder)


@pytest.mark.parametrize("name", ["anomaly-dino", "nearest-patch-dino"])
def test_it_runs_on_weights_that_the_user_brings(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("O2N_DINO", write_dino(tmp_path))
    method = METHODS[name](QUICK)
    query = stripes(5)
    query[20:40, 20:40] = (255, 0, 255)
    scored = method.fit([stripes(seed) for seed in range(3)], "stripes").score([stripes(4), query])
    assert scored.maps is not None
    assert scored.maps.shape == (2, 28, 28)  # 448 pixels in patches of 16
    assert scored.scores[1] > scored.scores[0]


@pytest.mark.parametrize("name", ["anomaly-dino", "nearest-patch-dino"])
def test_weights_that_see_pictures_otherwise_are_others(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    for folder, mean in (("a", 0.5), ("copy", 0.5), ("b", 0.4)):
        monkeypatch.setenv("O2N_DINO", write_dino(tmp_path / folder, mean))
        told.append(revision(METHODS[name](QUICK)))
    assert told[0] == told[1] != told[2]


def test_a_turned_part_is_known(foundation: Foundation) -> None:
    known, query = [stripes(0), stripes(1)], np.ascontiguousarray(np.rot90(stripes(2)))
    levels = QUICK.encoder.levels
    turning = AnomalyDINO("", foundation.clip, levels).fit(known, "stripes").score([query, stripes(2)]).scores
    plain = NearestPatch("", foundation.clip, levels, warps=0).fit(known, "stripes").score([query, stripes(2)]).scores
    assert turning[0] / turning[1] < 0.8 * plain[0] / plain[1]


def test_the_score_is_the_mean_of_the_largest_hundredth(foundation: Foundation) -> None:
    fitted = AnomalyDINO("", foundation.clip, QUICK.encoder.levels).fit([stripes(0), stripes(1)], "stripes")
    scored = fitted.score([stripes(2)])
    assert scored.maps is not None
    assert scored.scores[0] == pytest.approx(np.sort(scored.maps, axis=None)[-2:].mean(), rel=1e-5)
