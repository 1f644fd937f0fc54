"""The diffusion model's text encoder is CLIP's text tower: the same states of the same prompts."""

import torch
import torch.nn.functional as F

from o2n.foundation import load_from
from o2n.profiles import TINY
from o2n.prompts import abnormal_prompts, normal_prompts
from o2n.tiny.text_tower import read_as_clip


@torch.inference_mode()
def test_both_read_a_prompt_alike() -> None:
    foundation = load_from(TINY, None)
    clip, diffusion = foundation.clip, foundation.diffusion
    prompts = [*normal_prompts("hex nut")[:3], *abnormal_prompts("carpet")[:3]]
    tokens = clip.tokenize(prompts)
    ends = tokens.argmax(dim=-1)  # the last token of a text has the highest number
    wanted = clip.model.encode_text(tokens, normalize=True)

    def read() -> torch.Tensor:
        last = diffusion.text_encoder(tokens)[0][torch.arange(len(tokens)), ends]
        return F.normalize(last @ clip.model.text_projection, dim=-1)

    assert not torch.allclose(read(), wanted, atol=1e-2)
    read_as_clip(diffusion, clip)
    assert torch.allclose(read(), wanted, atol=1e-5)
