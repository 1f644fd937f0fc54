"""Adapters that share a batch do to each sample what peft does with its own adapter alone."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from peft.tuners.lora import LoraLayer

from o2n.mixture import BASE, mixed_adapters


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    """With three adapters whose alpha differs, one of which is in some of the layers alone: linear ones and
    convolutions, of one pixel and of more, with a stride and without."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16, 16),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=8,
            attention_head_dim=4,
            norm_num_groups=4,
        )
        every = ["to_q", "to_v", "conv1", "conv", "proj_in", "conv_out"]
        for name, alpha, layers in (("one", 4, every), ("two", 8, every), ("three", 4, ["to_q", "conv1"])):
            config = LoraConfig(r=4, lora_alpha=alpha, target_modules=layers, init_lora_weights=False)
            model.add_adapter(config, adapter_name=name)
    return model.requires_grad_(False).eval()


def predict(unet: UNet2DConditionModel, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    x, text = torch.randn(count, 4, 8, 8, generator=generator), torch.randn(count, 5, 8, generator=generator)
    return unet(x, torch.tensor(5), text).sample


@given(names=st.lists(st.sampled_from(["one", "two", "three", BASE]), min_size=1, max_size=5))
@settings(max_examples=30, deadline=None)
def test_it_is_what_peft_makes_of_them(unet: UNet2DConditionModel, names: list[str]) -> None:
    with mixed_adapters(unet, names):
        ours = predict(unet, len(names))
    layers = [module for module in unet.modules() if isinstance(module, LoraLayer)]
    give = [
        layer.register_forward_pre_hook(
            lambda module, args, kwargs: (args, {**kwargs, "adapter_names": names}), with_kwargs=True
        )
        for layer in layers
    ]
    try:
        theirs = predict(unet, len(names))
    finally:
        for hook in give:
            hook.remove()
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    if set(names) != {BASE}:
        with mixed_adapters(unet, [BASE] * len(names)):
            assert (predict(unet, len(names)) - ours).abs().max() > 1e-3


def test_afterwards_the_model_is_as_before(unet: UNet2DConditionModel) -> None:
    unet.set_adapter("two")
    before = predict(unet, 2)
    with pytest.raises(RuntimeError, match="on the way"), mixed_adapters(unet, ["one", BASE]):
        raise RuntimeError("on the way")
    assert torch.equal(predict(unet, 2), before)


def test_an_adapter_that_is_not_loaded_is_an_error(unet: UNet2DConditionModel) -> None:
    with pytest.raises(KeyError, match="four"), mixed_adapters(unet, ["one", "four"]):
        pass
