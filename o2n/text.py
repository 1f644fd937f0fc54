"""Prompts -> text features, patch features -> how abnormal they read: S_text (eq. 6)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from o2n import prompts
from o2n.models import ClipModel

# CLIP's own logit scale at the end of its training, and what the linear maps are trained with.
LOGIT_SCALE = 100.0


@torch.inference_mode()
def text_features(clip: ClipModel, object_word: str) -> Tensor:
    """F_text: the mean embedding of all normal prompts, and of all abnormal ones.

    Returns: float32 (2, E) on the CPU, each of length 1; row 0 normal, row 1 abnormal.
    """
    device = clip.mean.device
    classes = (prompts.normal_prompts(object_word), prompts.abnormal_prompts(object_word))
    means = [
        clip.model.encode_text(clip.tokenize(list(texts)).to(device), normalize=True).mean(dim=0) for texts in classes
    ]
    return F.normalize(torch.stack(means), dim=-1).float().cpu()


@torch.inference_mode()
def map_to_text(clip: ClipModel, features: Tensor) -> Tensor:
    """F'_q,l: patch features brought into the space of the text features, by the linear maps trained for each level
    if the model has them, else by its own projection.

    LayerNorm does not see the scale of its input but for its epsilon, so features of length 1 are first brought
    back to unit variance.

    Args: features: float32 (B, L, G, D), on any device.
    Returns: float32 (B, L, G, E), each of length 1, on the model's device.
    """
    features = features.to(clip.mean.device)
    if clip.maps is not None:
        return F.normalize(clip.maps(features), dim=-1)
    visual = clip.model.visual
    tokens = visual.ln_post((features * features.shape[-1] ** 0.5).to(visual.ln_post.weight.dtype))
    return F.normalize((tokens @ visual.proj if visual.proj is not None else tokens).float(), dim=-1)


def text_logits(mapped: Tensor, text: Tensor) -> Tensor:
    """100 · cos(F'_q,l, F_text). Args: float32 (B, L, G, E), (B, 2, E), of length 1. Returns: float32 (B, L, G, 2)."""
    return LOGIT_SCALE * torch.einsum("blge,bce->blgc", mapped, text)


@torch.inference_mode()
def abnormal_probability(clip: ClipModel, features: Tensor, text: Tensor) -> Tensor:
    """softmax(F'_q,l · F_textᵀ), the abnormal class: the inner term of eq. (6).

    Args:
        features: float32 (B, L, G, D) of the queries, on any device.
        text: float32 (B, 2, E): each query's own category, so that categories share a batch.

    Returns: float32 (B, L, G) in [0, 1].
    """
    return text_logits(map_to_text(clip, features), text.to(clip.mean.device)).softmax(dim=-1)[..., 1]
