"""anomalib's own methods: they say what they need, and with it they run, on small or random weights."""

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import safetensors.torch
import timm
import torch

from jobs.evaluate import survey
from o2n.evaluation.methods import METHODS
from o2n.evaluation.methods.anomalib import Anomalib
from o2n.evaluation.protocol import revision
from tests.helpers import QUICK, checks

NAMES = ("anomalib-patchcore", "anomalib-padim", "anomalib-winclip")
NEEDED = {
    "anomalib-patchcore": "timm/wide_resnet50_2.racm_in1k model.safetensors",
    "anomalib-padim": "timm/resnet18.a1_in1k model.safetensors",
    "anomalib-winclip": "timm/vit_base_patch16_plus_clip_240.laion400m_e31 open_clip_model.safetensors",
}
CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 60, "layers": 2, "width": 32, "head_width": 16, "patch_size": 12},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`O2N_MODELS` with random weights of each; the CLIP is a small one."""
    module = pytest.importorskip("anomalib.models.image.winclip.torch_model")
    torch.manual_seed(0)
    (tmp_path / "small.json").write_text(json.dumps(CLIP))
    open_clip.add_model_config(tmp_path / "small.json")
    monkeypatch.setattr(module, "BACKBONE", "small")
    made = {
        "anomalib-patchcore": timm.create_model("wide_resnet50_2", features_only=True, out_indices=(2, 3)),
        "anomalib-padim": timm.create_model("resnet18", features_only=True, out_indices=(1, 2, 3)),
        "anomalib-winclip": open_clip.create_model("small"),
    }
    for method, model in made.items():
        repository, name = NEEDED[method].split()
        folder = tmp_path / repository.replace("/", "--")
        folder.mkdir()
        safetensors.torch.save_file(model.state_dict(), folder / name)
    monkeypatch.setenv("O2N_MODELS", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("folder", [None, "empty"])
def test_what_is_missing_is_named_and_leaves_a_method_out(
    folder: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if folder:
        monkeypatch.setenv("O2N_MODELS", str(tmp_path))
    else:
        monkeypatch.delenv("O2N_MODELS", raising=False)
    found = survey(QUICK, [*NAMES, "raw-patches"])
    assert set(found.revisions) == {"raw-patches"}
    for name, needed in NEEDED.items():
        assert found.left_out[name].startswith(f"{name} cannot be built (")
        assert "pip install '.[anomalib]'" in found.left_out[name]
        assert f"hf download {needed} --local-dir $O2N_MODELS/timm--" in found.left_out[name]


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_on_weights_that_the_user_brings(name: str, models: Path) -> None:
    method = METHODS[name](QUICK)
    assert isinstance(method, Anomalib)
    query = checks(4)
    query[20:44, 20:44] = (200, 30, 30)
    pictures = [checks(5), checks(6, 50, 70), query]
    fitted, other = method.fit([checks(0), checks(1)], "board"), method.fit([query, checks(1)], "board")
    scored = fitted.score(pictures)
    assert scored.maps is not None
    assert scored.maps.dtype == np.float32
    assert scored.scores.shape == (3,)
    assert scored.maps.shape == (3, method.side, method.side)
    np.testing.assert_allclose(fitted.score(pictures[2:]).scores, scored.scores[2:], rtol=1e-3)
    again = METHODS[name](QUICK).fit([checks(0), checks(1)], "board").score(pictures)
    np.testing.assert_allclose(again.scores, scored.scores, rtol=1e-4)
    assert other.score(pictures).scores[2] < scored.scores[2]  # it knows the defect


@pytest.mark.parametrize("name", NAMES)
def test_other_weights_are_of_another_revision(name: str, models: Path) -> None:
    before = revision(METHODS[name](QUICK))
    assert revision(METHODS[name](QUICK)) == before
    repository, file = NEEDED[name].split()
    path = models / repository.replace("/", "--") / file
    tensors = safetensors.torch.load_file(path)
    safetensors.torch.save_file({key: 1.1 * tensor for key, tensor in tensors.items()}, path)
    assert revision(METHODS[name](QUICK)) != before
