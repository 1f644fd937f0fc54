"""A text encoder that is trained beside the UNet: it learns, plain diffusers reads it, and scores go through it."""

import copy
from pathlib import Path

import pytest
import safetensors.torch
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

from o2n.customize import customize, load_adapter, read_text_lora, unload_adapter
from o2n.errors import IntegrityError
from o2n.foundation import Foundation
from o2n.onboard import onboard
from o2n.profiles import Profile
from o2n.store import CategoryStore
from o2n.triplet import TripletScorer
from tests.helpers import QUICK, checks

SETTINGS = QUICK.customisation.model_copy(update={"text_encoder": True, "learning_rate": 0.05})
PROMPT = ["a photo of a board"]


@pytest.fixture(scope="module")
def trained(foundation: Foundation) -> bytes:
    return customize(foundation.diffusion, [checks(0), checks(1)], [checks(7)], "board", SETTINGS, 0)


def test_it_learns_and_leaves_the_base_model_as_it_was(foundation: Foundation, trained: bytes) -> None:
    model = foundation.diffusion
    before = model.embed(PROMPT)
    lora = read_text_lora(model, trained)
    assert len(lora) == 8  # 2 blocks of 4 layers
    assert all(up.abs().max() > 0 for _, up in lora.values())
    assert (model.embed(PROMPT, lora) - before).abs().max() > 1e-3
    assert torch.equal(model.embed(PROMPT), before)
    assert not any(parameter.requires_grad for parameter in model.text_encoder.parameters())


def test_where_it_is_not_asked_for_nothing_of_it_is_in_the_file(foundation: Foundation) -> None:
    settings = SETTINGS.model_copy(update={"text_encoder": False})
    data = customize(foundation.diffusion, [checks(0), checks(1)], [], "board", settings, 0)
    assert all(key.startswith("unet.") for key in safetensors.torch.load(data))
    assert read_text_lora(foundation.diffusion, data) == {}


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(
    foundation: Foundation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("o2n.customize.SAVE_EVERY", 4)
    settings = SETTINGS.model_copy(update={"steps": 6, "batch": 1})
    saved: list[bytes] = []
    arguments = (foundation.diffusion, [checks(0), checks(1)], [], "board", settings, 0)
    whole = customize(*arguments, save=saved.append)
    assert customize(*arguments, so_far=saved[0]) == whole


@pytest.mark.parametrize("alpha", [SETTINGS.rank, 4 * SETTINGS.rank])
def test_a_plain_diffusers_pipeline_reads_with_it(foundation: Foundation, tmp_path: Path, alpha: int) -> None:
    """With its alpha too, which its metadata alone tells: without them it is taken to be the rank."""
    model, settings = foundation.diffusion, SETTINGS.model_copy(update={"lora_alpha": alpha})
    data = customize(model, [checks(0), checks(1)], [checks(7)], "board", settings, 0)
    (tmp_path / "pytorch_lora_weights.safetensors").write_bytes(data)
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL(block_out_channels=(8,), norm_num_groups=4),
        text_encoder=copy.deepcopy(model.text_encoder),
        tokenizer=None,
        unet=UNet2DConditionModel.from_config(model.unet.config),
        scheduler=DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.load_lora_weights(tmp_path)
    with torch.no_grad():
        theirs = pipeline.text_encoder(model.tokenize(PROMPT))[0]
        pipeline.unload_lora_weights()
        pipeline.load_lora_weights(safetensors.torch.load(data))
        untold = pipeline.text_encoder(model.tokenize(PROMPT))[0]
    torch.testing.assert_close(model.embed(PROMPT, read_text_lora(model, data)), theirs, atol=1e-5, rtol=0)
    assert ((theirs - untold).abs().max() > 1e-3) == (alpha != SETTINGS.rank)


def test_one_of_another_text_encoder_is_refused(foundation: Foundation, trained: bytes) -> None:
    tensors = safetensors.torch.load(trained)
    narrow = {key: t[:, :3].contiguous() if "lora_A" in key and "text" in key else t for key, t in tensors.items()}
    deep = {
        **tensors,
        **{key.replace("layers.0", "layers.9"): t.clone() for key, t in tensors.items() if "text" in key},
    }
    header = {"lora_adapter_metadata": "{}"}
    ranks = {key: t[:1].contiguous() if "lora_A" in key and "text" in key else t for key, t in tensors.items()}
    flat = {key: t.flatten() if "lora_A" in key and "text" in key else t for key, t in tensors.items()}
    half = {key: t for key, t in tensors.items() if not ("lora_B" in key and "text" in key)}
    for other in (narrow, deep, ranks, flat, half):
        with pytest.raises(IntegrityError, match="does not fit this text encoder"):
            load_adapter(foundation.diffusion, "other", safetensors.torch.save(other, header))
    for told in ('{"text_encoder.r": 0}', '{"text_encoder.r": "four"}', "[]"):
        with pytest.raises(IntegrityError, match="does not fit this text encoder"):
            load_adapter(
                foundation.diffusion, "other", safetensors.torch.save(tensors, {"lora_adapter_metadata": told})
            )
    assert "other" not in foundation.diffusion.text_loras


def test_every_score_goes_through_it(foundation: Foundation, tmp_path: Path) -> None:
    """A picture that comes again scores what it scored when the version was calibrated, which takes another way."""
    profile: Profile = QUICK.model_copy(update={"customisation": SETTINGS, "t": 0.5})
    store = CategoryStore(tmp_path.as_uri())
    ref = onboard("board", [checks(0), checks(1)], profile, store, more_normal=[checks(20)]).ref
    (found,) = TripletScorer(profile, store).score([checks(20)], [ref])
    (calibrated,) = (picture for picture in store.calibration(ref).pictures if picture.origin == "extra")
    assert (found.s_p, found.s_n, found.s_text) == (calibrated.s_p, calibrated.s_n, calibrated.s_text)
    plain = profile.model_copy(update={"customisation": SETTINGS.model_copy(update={"text_encoder": False})})
    other = onboard("other", [checks(0), checks(1)], plain, store).ref
    assert TripletScorer(plain, store).score([checks(20)], [other])[0].s_p != found.s_p


def test_it_is_loaded_and_unloaded_with_its_adapter(foundation: Foundation, trained: bytes) -> None:
    load_adapter(foundation.diffusion, "mine", trained)
    assert len(foundation.diffusion.text_loras["mine"]) == 8
    unload_adapter(foundation.diffusion, "mine")
    assert "mine" not in foundation.diffusion.text_loras
