"""Equation (1): the adapter learns, is the same every time, and loads in a plain diffusers program."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

from o2n.customize import customize, load_adapter, unload_adapter
from o2n.data.procedural import spoil_photographs
from o2n.errors import IntegrityError
from o2n.evaluation.metrics import masked_error
from o2n.foundation import Foundation
from o2n.personalize import mixed_adapters, personalize, seeded_noise
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
    losses: list[float] = []
    settings = SETTINGS.model_copy(update={"steps": 60, "learning_rate": 3e-3, "rank": 8, "lora_alpha": 8, "batch": 4})
    customize(foundation.diffusion, REFERENCES, [], "board", settings, 0, lambda step, loss: losses.append(loss))
    assert len(losses) == 60
    assert sum(losses[-15:]) < 0.9 * sum(losses[:15])


def test_the_prior_term_and_its_weight_count(foundation: Foundation) -> None:
    assert adapter(foundation) != adapter(foundation, prior_weight=0.0)
    without = customize(foundation.diffusion, REFERENCES, [], "board", SETTINGS, 0)
    assert adapter(foundation, prior_weight=0.0) == without


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


def test_a_plain_diffusers_pipeline_loads_the_file(foundation: Foundation, tmp_path: Path) -> None:
    model = foundation.diffusion
    data = adapter(foundation, learning_rate=0.05)
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
    load_adapter(model, "mine", data)
    try:
        with torch.no_grad(), mixed_adapters(model.unet, ["mine"]):
            ours = model.unet(x, 5, text).sample
    finally:
        unload_adapter(model, "mine")
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert (theirs - base).abs().max() > 1e-3


def test_an_adapter_of_another_model_is_refused(foundation: Foundation) -> None:
    tensors = safetensors.torch.load(adapter(foundation))
    other = safetensors.torch.save(
        {name: tensor[:, :3].contiguous() for name, tensor in tensors.items()}, {"lora_adapter_metadata": "{}"}
    )
    with pytest.raises(IntegrityError, match="does not fit"):
        load_adapter(foundation.diffusion, "other", other)


@pytest.mark.parametrize("cut", [0, 4, 100, -1])
def test_a_damaged_file_is_refused_and_leaves_nothing(foundation: Foundation, cut: int) -> None:
    with pytest.raises(IntegrityError) as refused:
        load_adapter(foundation.diffusion, "damaged", adapter(foundation)[:cut])
    assert "\n" not in str(refused.value)
    assert "damaged" not in getattr(foundation.diffusion.unet, "peft_config", {})
