"""Equation (1): the adapter learns, is the same every time, and loads in a plain diffusers program."""

import copy
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import safetensors.torch
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

from o2n.customize import _augment, customize, load_adapter, unload_adapter
from o2n.data.procedural import spoil_photographs
from o2n.errors import FoundationError, IntegrityError
from o2n.evaluation.metrics import masked_error
from o2n.foundation import Foundation
from o2n.images import Picture
from o2n.mixture import BASE, mixed_adapters
from o2n.models import DiffusionModel
from o2n.personalize import personalize, seeded_noise
from o2n.pool import draw_prior
from tests.helpers import QUICK, checks

SETTINGS = QUICK.customisation
REFERENCES = [checks(0), checks(1)]


def adapter(foundation: Foundation, seed: int = 0, **change: object) -> bytes:
    settings = SETTINGS.model_copy(update=change)
    return customize(foundation.diffusion, REFERENCES, [checks(7)], "board", settings, seed)


def test_the_same_inputs_give_the_same_bytes(foundation: Foundation) -> None:
    assert adapter(foundation) == adapter(foundation)
    assert adapter(foundation) != adapter(foundation, seed=1)


def test_the_loss_falls(foundation: Foundation) -> None:
    """Beside that of the same pictures, timesteps and noise without learning: these differ more than it falls."""

    def losses(learning_rate: float) -> list[float]:
        told: list[float] = []
        change = {"steps": 60, "learning_rate": learning_rate, "rank": 8, "lora_alpha": 8, "batch": 4}
        settings = SETTINGS.model_copy(update=change)
        customize(foundation.diffusion, REFERENCES, [], "board", settings, 0, lambda step, loss: told.append(loss))
        return told

    learned, unlearned = losses(1e-2), losses(1e-9)
    assert len(learned) == 60
    assert learned[0] == unlearned[0]
    assert sum(learned[-10:]) < 0.9 * sum(unlearned[-10:])


def test_a_training_that_goes_astray_is_an_error_and_no_adapter(foundation: Foundation) -> None:
    told: list[float] = []
    settings = SETTINGS.model_copy(update={"steps": 30, "learning_rate": 1e30})
    with pytest.raises(FoundationError, match=r"'board' has failed: after \d+ steps its loss is (nan|inf)"):
        customize(foundation.diffusion, REFERENCES, [], "board", settings, 0, lambda step, loss: told.append(loss))
    assert all(np.isfinite(told))
    assert adapter(foundation) == adapter(foundation)  # the model is as it was


def test_layers_that_take_no_adapter_are_an_error_and_leave_the_model_as_it_was(foundation: Foundation) -> None:
    before = adapter(foundation)
    for wrong in ("to_x", "norm1"):
        with pytest.raises(FoundationError, match=f"no convolution whose name ends with {wrong}"):
            adapter(foundation, target_modules=(wrong,))
        assert adapter(foundation) == before


@pytest.mark.parametrize("name", ["to_q", "conv1", "conv_in", "ff.net.2"])
def test_an_adapter_changes_the_layers_that_the_profile_names(foundation: Foundation, name: str) -> None:
    weights = safetensors.torch.load(adapter(foundation, target_modules=(name,)))
    layers = {key.removeprefix("unet.").rpartition(".lora_")[0] for key in weights}
    wanted = {key for key, _ in foundation.diffusion.unet.named_modules() if key == name or key.endswith(f".{name}")}
    assert layers == wanted
    assert all(weight.any() for key, weight in weights.items() if ".lora_B" in key)


def test_views_are_like_the_references_and_none_is_one() -> None:
    def views(seed: int) -> np.ndarray:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return np.stack(_augment(REFERENCES, 4))

    found = views(0)
    assert found.shape == (4 * 2, *REFERENCES[0].shape)
    assert found.dtype == np.uint8
    assert np.array_equal(found[:2], REFERENCES)
    assert len({view.tobytes() for view in found}) == len(found)
    assert np.array_equal(found, views(0))
    assert not np.array_equal(found[2:], views(1)[2:])


def test_latents_and_texts_are_computed_once_however_long_the_training(foundation: Foundation) -> None:
    def calls(steps: int) -> list[int]:
        kind = DiffusionModel
        with (
            patch.object(kind, "encode", autospec=True, side_effect=kind.encode) as encode,
            patch.object(kind, "embed", autospec=True, side_effect=kind.embed) as embed,
        ):
            adapter(foundation, steps=steps)
        return [encode.call_count, embed.call_count]

    assert calls(2) == calls(6)
    assert min(calls(1)) > 0


def held_out_loss(model: DiffusionModel, adapter: str, pictures: list[Picture], prompt: str) -> float:
    """The mean error in denoising, over noise and timesteps that no training has seen."""
    latents, text = torch.cat([model.encode([picture]) for picture in pictures]), model.embed([prompt])
    scheduler = model.noising
    losses = []
    for seed, t in enumerate(range(50, 1000, 100)):
        noise = seeded_noise(10_000 + seed, tuple(latents.shape))
        at = torch.full((len(latents),), t)
        with torch.inference_mode(), mixed_adapters(model.unet, [adapter] * len(latents)):
            found = model.predict(scheduler.add_noise(latents, noise, at), at, text.expand(len(latents), -1, -1))
        losses.append(torch.nn.functional.mse_loss(found, latents).item())  # the embedded model predicts the picture
    return float(np.mean(losses))


def test_the_prior_term_keeps_the_class_from_drifting(foundation: Foundation) -> None:
    """What the base model takes the class to be, on pictures of it that the training has not seen, is still so after a
    training with the term, and not after one without. The references are learned either way."""
    model = foundation.diffusion
    settings = SETTINGS.model_copy(
        update={"steps": 60, "learning_rate": 5e-3, "rank": 8, "lora_alpha": 8, "batch": 4, "spoilt": 0.0}
    )
    profile = QUICK.model_copy(update={"customisation": settings.model_copy(update={"prior_pictures": 12})})
    prior, unseen = (draw_prior(model, "board", profile.model_copy(update={"seed": seed})) for seed in (0, 99))
    drift, learned = {}, {}
    for weight in (0.0, 1.0):
        changed = settings.model_copy(update={"prior_weight": weight})
        load_adapter(model, "tried", customize(model, REFERENCES, prior, "board", changed, 0))
        try:
            for found, pictures, prompt in (
                (drift, unseen, "a photo of board"),
                (learned, REFERENCES, "a photo of normal board"),
            ):
                before, after = (held_out_loss(model, name, pictures, prompt) for name in (BASE, "tried"))
                found[weight] = after / before - 1
        finally:
            unload_adapter(model, "tried")
    assert drift[0.0] > 0.15
    assert drift[1.0] < drift[0.0] / 2
    assert max(learned.values()) < -0.05


def test_a_training_that_was_stopped_goes_on_to_the_same_bytes(
    foundation: Foundation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("o2n.customize.SAVE_EVERY", 4)
    settings, model = SETTINGS.model_copy(update={"steps": 6, "batch": 1}), foundation.diffusion
    states: list[bytes] = []
    seen: list[int] = []
    whole = customize(model, REFERENCES, [checks(7)], "board", settings, 0, save=states.append)
    assert len(states) == 1

    def go_on(so_far: bytes, references: list[Picture] = REFERENCES) -> bytes:
        seen.clear()
        return customize(
            model, references, [checks(7)], "board", settings, 0, lambda step, loss: seen.append(step), so_far
        )

    assert go_on(states[0]) == whole
    assert seen == [5, 6]
    assert go_on(states[0][:-9]) == whole
    assert len(seen) == settings.steps


def test_keeping_no_activations_changes_next_to_nothing(foundation: Foundation) -> None:
    kept, twice = (safetensors.torch.load(adapter(foundation, checkpointing=value)) for value in (False, True))
    for name, tensor in kept.items():
        torch.testing.assert_close(twice[name], tensor, atol=1e-4, rtol=0)
    assert not foundation.diffusion.unet.training
    assert not foundation.diffusion.unet.is_gradient_checkpointing


def test_half_precision_trains_an_adapter_in_full_precision(foundation: Foundation) -> None:
    """As on a GPU: the UNet in bfloat16. A CPU can do it too, if slowly."""
    half = replace(foundation.diffusion, unet=copy.deepcopy(foundation.diffusion.unet).to(torch.bfloat16))
    settings = SETTINGS.model_copy(update={"steps": 4, "batch": 1})
    rough, exact = (
        safetensors.torch.load(customize(model, REFERENCES, [], "board", settings, 0))
        for model in (half, foundation.diffusion)
    )
    assert {tensor.dtype for tensor in rough.values()} == {torch.float32}
    moved = sum((tensor**2).sum() for name, tensor in exact.items() if "lora_B" in name)
    apart = sum(((tensor - rough[name]) ** 2).sum() for name, tensor in exact.items() if "lora_B" in name)
    assert 0 < apart < moved  # the same way, though steps of Adam have a size whatever their reason
    x, text = torch.randn(1, *half.latent_shape), half.embed(["a board"])
    for model in (half, foundation.diffusion):
        assert model.predict(x, torch.tensor(500), text).dtype == torch.float32


def test_another_prompt_gives_another_adapter(foundation: Foundation) -> None:
    assert adapter(foundation) != adapter(foundation, prompt="a picture of a flawless {}")


def test_the_prior_term_and_its_weight_count(foundation: Foundation) -> None:
    assert adapter(foundation) != adapter(foundation, prior_weight=0.0)
    without = customize(foundation.diffusion, REFERENCES, [], "board", SETTINGS, 0)
    assert adapter(foundation, prior_weight=0.0) == without


@pytest.mark.slow
def test_made_up_defects_count_and_are_not_learned(foundation: Foundation) -> None:
    """Adapters trained with defects differ from those without, and take more of a defect away."""
    assert adapter(foundation, spoilt=0.0) != adapter(foundation, spoilt=1.0)
    settings = SETTINGS.model_copy(update={"steps": 40, "learning_rate": 0.01, "batch": 4})
    spoilt, masks = spoil_photographs(np.stack([checks(seed) for seed in range(30, 38)]), 5)
    clean = np.stack([checks(seed) for seed in range(30, 38)]) / np.float32(255)
    left = {}
    for share in (0.0, 1.0):
        data = customize(
            foundation.diffusion, REFERENCES, [], "board", settings.model_copy(update={"spoilt": share}), 0
        )
        load_adapter(foundation.diffusion, "tried", data)
        try:
            redrawn = personalize(
                foundation.diffusion,
                list(spoilt),
                [foundation.diffusion.embed(["a photo of normal board"])] * 8,
                ["tried"] * 8,
                seeded_noise(0, (8, *foundation.diffusion.latent_shape)),
                t=0.2,
                steps=10,
                guidance=1.0,
            )
        finally:
            unload_adapter(foundation.diffusion, "tried")
        left[share] = masked_error(redrawn.permute(0, 2, 3, 1).numpy(), clean, masks).mean()
    assert left[1.0] < left[0.0]


def test_training_leaves_the_base_model_as_it_was(foundation: Foundation) -> None:
    unet = foundation.diffusion.unet
    before = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    adapter(foundation)
    after = unet.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(parameter.requires_grad for parameter in unet.parameters())


def test_the_process_keeps_its_random_state(foundation: Foundation) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    adapter(foundation)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("alpha", [SETTINGS.rank, 4 * SETTINGS.rank])
def test_a_plain_diffusers_pipeline_loads_the_file(foundation: Foundation, tmp_path: Path, alpha: int) -> None:
    """Its alpha too, which its metadata alone tells: without them it is taken to be the rank."""
    model = foundation.diffusion
    data = adapter(foundation, learning_rate=0.05, lora_alpha=alpha)
    (tmp_path / "pytorch_lora_weights.safetensors").write_bytes(data)
    unet = UNet2DConditionModel.from_config(model.unet.config)
    weights = model.unet.state_dict()
    unet.load_state_dict({name.replace(".base_layer", ""): weights[name] for name in weights if "lora_" not in name})
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL(block_out_channels=(8,), norm_num_groups=4),
        text_encoder=model.text_encoder,
        tokenizer=None,
        unet=unet.eval(),
        scheduler=DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    x, text = torch.randn(1, *model.latent_shape), model.embed(["a board"])
    with torch.no_grad():
        base = unet(x, 5, text).sample
        pipeline.load_lora_weights(tmp_path)
        theirs = unet(x, 5, text).sample
        pipeline.unload_lora_weights()
        pipeline.load_lora_weights(safetensors.torch.load(data))
        untold = unet(x, 5, text).sample
    load_adapter(model, "mine", data)
    try:
        with torch.no_grad(), mixed_adapters(model.unet, ["mine"]):
            ours = model.unet(x, 5, text).sample
    finally:
        unload_adapter(model, "mine")
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert (theirs - base).abs().max() > 1e-3
    assert ((theirs - untold).abs().max() > 1e-3) == (alpha != SETTINGS.rank)


def test_an_adapter_of_another_model_is_refused(foundation: Foundation) -> None:
    tensors = safetensors.torch.load(adapter(foundation))
    other = safetensors.torch.save(
        {name: tensor[:, :3].contiguous() for name, tensor in tensors.items()}, {"lora_adapter_metadata": "{}"}
    )
    with pytest.raises(IntegrityError, match="does not fit"):
        load_adapter(foundation.diffusion, "other", other)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, torch.AcceleratorError])
@pytest.mark.parametrize("where", ["from_file", "lora_layers"])
def test_a_gpu_that_is_full_or_has_failed_is_no_fault_of_the_file(
    foundation: Foundation, monkeypatch: pytest.MonkeyPatch, where: str, error: type[Exception]
) -> None:
    def fail(*_: object) -> None:
        raise error("CUDA error")

    data, model = adapter(foundation), foundation.diffusion
    with monkeypatch.context() as patch:
        patch.setattr(f"o2n.customize.{where}", fail)
        with pytest.raises(error, match="CUDA error"):
            load_adapter(model, "tried", data)
    load_adapter(model, "tried", data)  # its name is free
    unload_adapter(model, "tried")


@pytest.mark.parametrize("cut", [0, 4, 100, -1])
def test_a_damaged_file_is_refused_and_leaves_nothing(foundation: Foundation, cut: int) -> None:
    with pytest.raises(IntegrityError) as refused:
        load_adapter(foundation.diffusion, "damaged", adapter(foundation)[:cut])
    assert "\n" not in str(refused.value)
    assert "damaged" not in getattr(foundation.diffusion.unet, "peft_config", {})
