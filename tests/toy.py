"""Models of a few layers with random weights, in the hub's own layouts: a picture is scored in a millisecond or two.

    mkdir toy && python tests/toy.py toy        # writes them and toy/profile.json
    python jobs/benchmark.py offline --rounds 0 --categories 1 --pictures 200 --long 100000 --profile toy/profile.json

For what is measured or broken around the models: scheduling, memory, kills. They tell nothing about accuracy.
"""

import sys
from pathlib import Path
from typing import Any

from o2n.evaluation.blank import blank_clip, blank_diffusion
from o2n.profiles import TINY, Profile

SIDE = 16  # pixels, the least that a picture may have

CLIP: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": SIDE, "layers": 1, "width": 16, "head_width": 8, "patch_size": 4},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
UNET: dict[str, Any] = {
    "sample_size": SIDE,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (8,),
    "down_block_types": ("DownBlock2D",),
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "up_block_types": ("UpBlock2D",),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 16,
    "attention_head_dim": 2,
}
TEXT: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def toy_profile(folder: Path) -> Profile:
    """The profile of models that are written to `folder`."""
    blank_clip(CLIP, folder / "clip")
    blank_diffusion(UNET, None, TEXT, folder / "diffusion")
    return TINY.model_copy(
        update={
            "name": "toy",
            "encoder": TINY.encoder.model_copy(
                update={"source": str(folder / "clip"), "resolution": SIDE, "levels": (1,)}
            ),
            "diffusion": TINY.diffusion.model_copy(
                update={"source": str(folder / "diffusion"), "resolution": SIDE, "steps": 4}
            ),
            "customisation": TINY.customisation.model_copy(
                update={"steps": 1, "batch": 2, "augmentations": 2, "prior_pictures": 2, "spoilt": 0.0}
            ),
            "pool": TINY.pool.model_copy(update={"pictures": 3, "warps": 0}),
            "t": 0.25,
            "prompts": 1,
            "fusion": "sum",
        }
    )


if __name__ == "__main__":
    target = Path(sys.argv[1]).absolute()
    # Without a step of denoising: what is watched over a long run is not the UNet.
    profile = toy_profile(target).model_copy(update={"t": 0.0})
    (target / "profile.json").write_text(profile.model_dump_json(indent=1))
