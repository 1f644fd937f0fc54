"""What the stages cost: counted arithmetic against the published architectures, and the whole table on small models."""

import open_clip
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from o2n.evaluation.blank import SD15_UNET, SD15_VAE
from o2n.evaluation.stages import flops_per_second, onboarding_costs, scoring_costs, table
from o2n.foundation import load_foundation
from o2n.profiles import FAST, PAPER
from o2n.store import CategoryStore
from tests.helpers import QUICK, checks


@pytest.mark.parametrize("side", [512, 256])
def test_the_published_architectures_cost_what_is_published(side: int) -> None:
    """Counted without computing anything: TFLOP of a UNet forward, a decode and an encode of Stable Diffusion 1.5."""
    latent = side // 8
    with torch.device("meta"), torch.no_grad():
        unet, vae = UNet2DConditionModel(**SD15_UNET), AutoencoderKL(**SD15_VAE)
        text, x, picture = torch.ones(1, 77, 768), torch.ones(1, 4, latent, latent), torch.ones(1, 3, side, side)
        found = []
        for call in (
            lambda: unet(x, 1, text),
            lambda: vae.decode(x),
            lambda: vae.encode(picture),
            lambda: AutoencoderTiny().decode(x),
        ):
            with FlopCounterMode(display=False) as counter:
                call()
            found.append(counter.get_total_flops() / 1e12)
    *known, small = found
    assert known == pytest.approx([0.80, 2.51, 1.12] if side == 512 else [0.18, 0.62, 0.27], rel=0.05)
    assert small < known[1] / 10
    assert sum(p.numel() for p in unet.parameters()) == 859_520_964


def test_the_papers_encoder_costs_what_is_published() -> None:
    with torch.device("meta"), torch.no_grad():
        config = open_clip.get_model_config(PAPER.encoder.source.partition("@")[0])
        config["vision_cfg"]["image_size"] = PAPER.encoder.resolution
        visual = open_clip.CLIP(**config).visual
        with FlopCounterMode(display=False) as counter:
            visual(torch.ones(1, 3, 240, 240))
    assert counter.get_total_flops() / 1e12 == pytest.approx(0.18, rel=0.05)


def test_every_stage_has_its_cost(published: CategoryStore) -> None:
    foundation = load_foundation(QUICK)
    onboarding = onboarding_costs(foundation, [checks(0), checks(1)], "board", rounds=1)
    assert [cost.stage.name for cost in onboarding] == ["LoRA, 100 steps", "pool", "bank"]
    ref = published.current("checks")
    costs = {
        count: scoring_costs(foundation, published, ref, [checks(seed) for seed in range(count)], rounds=1)
        for count in (1, 2)
    }
    by_name = {cost.stage.name: cost for cost in costs[1]}
    assert list(by_name) == [
        "personalise, 1 prompt",
        "personalise, 3 prompts",
        "encoder",
        "S_P",
        "S_N",
        "S_text",
        "whole score",
    ]
    one, three = by_name["personalise, 1 prompt"], by_name["personalise, 3 prompts"]
    assert three.flops == pytest.approx(3 * one.flops, rel=0.1)
    for alone, two in zip(costs[1], costs[2], strict=True):
        assert two.flops == pytest.approx(2 * alone.flops, rel=0.1, abs=2e7)
        assert alone.stage.seconds > 0
    shown = table(onboarding + costs[1])
    assert all(cost.stage.name in shown for cost in onboarding + costs[1])
    assert flops_per_second(torch.device("cpu"), torch.float32, 256) > 1e8


def test_the_fast_profile_is_the_papers_with_less_to_compute() -> None:
    assert FAST.encoder == PAPER.encoder
    assert FAST.diffusion.source == PAPER.diffusion.source
    assert (FAST.prompts, FAST.diffusion.guidance, FAST.diffusion.resolution) == (1, 1.0, 256)
    assert round(FAST.t * FAST.diffusion.steps) == 3
