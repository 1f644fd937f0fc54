"""What the stages cost: counted arithmetic against the published architectures, and the whole table on small models."""

import open_clip
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from o2n.evaluation.blank import SD15_UNET, SD15_VAE
from o2n.evaluation.speed import counted, personalise_stage, scoring_stages
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


def test_attention_counts_whether_it_is_fused_or_not() -> None:
    layer = torch.nn.MultiheadAttention(8, 2, batch_first=True).eval()
    x = torch.randn(1, 5, 8)
    with torch.inference_mode():
        fused = counted(lambda: layer(x, x, x, need_weights=False))
    assert fused == counted(lambda: layer(x, x, x, need_weights=True)) == 2 * (4 * 5 * 8 * 8 + 2 * 5 * 5 * 8)
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_batch_of_two_computes_twice_as_much(published: CategoryStore) -> None:
    foundation, ref = load_foundation(QUICK), published.current("checks")
    costs = {}
    for count in (1, 2):
        queries = [checks(seed, QUICK.diffusion.resolution) for seed in range(count)]
        found = [
            *scoring_stages(foundation, published, queries, [ref] * count, rounds=1),
            *(personalise_stage(foundation, published, queries, ref, prompts, rounds=1) for prompts in (1, 3)),
        ]
        costs[count] = {stage.name: stage.flops for stage in found}
    for name, flops in costs[1].items():
        assert costs[2][name] == pytest.approx(2 * flops, rel=0.1, abs=2e7), name
    assert costs[1]["personalise, 3 prompts"] == pytest.approx(3 * costs[1]["personalise, 1 prompt"], rel=0.1)
    assert costs[1]["encoder, queries"] > 0


def test_the_fast_profile_is_the_papers_with_less_to_compute() -> None:
    assert FAST.encoder == PAPER.encoder
    assert FAST.diffusion.source == PAPER.diffusion.source
    assert (FAST.prompts, FAST.guidance, FAST.diffusion.resolution) == (1, 1.0, 256)
    assert round(FAST.t * FAST.diffusion.steps) == 3
