"""A DINOv2 or DINOv3 that the user brings, and the methods on it."""

from typing import TypeVar

from o2n.errors import FoundationError
from o2n.evaluation.methods.anomaly_dino import AnomalyDINO
from o2n.evaluation.methods.nearest_patch import NearestPatch
from o2n.foundation import load_foundation
from o2n.models import VisionModel
from o2n.profiles import TINY, EncoderSettings, Profile
from o2n.settings import get_settings

RESOLUTION = 448  # what AnomalyDINO is reported at

Built = TypeVar("Built", AnomalyDINO, NearestPatch)


def anomaly_dino(profile: Profile) -> AnomalyDINO:
    """AnomalyDINO on the weights that `O2N_DINO` names.

    Raises:
        FoundationError: it names none, or they cannot be loaded.
    """
    encoder = load_dino("AnomalyDINO")
    return _told(AnomalyDINO("AnomalyDINO", encoder, (encoder.depth,)), encoder)


def nearest_patch_dino(profile: Profile) -> NearestPatch:
    """S_N on the same weights, at a quarter, half, three quarters and all of their blocks, as One-to-Normal takes them
    of CLIP; raises as `anomaly_dino`."""
    encoder = load_dino("S_N (DINO)")
    levels = tuple(encoder.depth * quarter // 4 for quarter in (1, 2, 3, 4))
    return _told(NearestPatch("S_N (DINO)", encoder, levels, profile.pool.warps), encoder)


def load_dino(method: str) -> VisionModel:
    """The encoder that `O2N_DINO` names; `method` is who needs it. Raises as `anomaly_dino`."""
    source = get_settings().dino
    if source is None:
        raise FoundationError(
            f"{method} needs the weights of a DINOv2 or DINOv3: set O2N_DINO to a directory in timm's hub layout "
            "(config.json, model.safetensors) of vit_small_patch14_dinov2.lvd142m or its like, or to "
            "timm:vit_small_patch14_dinov2.lvd142m where the hub can be reached"
        )
    settings = EncoderSettings(source=source, resolution=RESOLUTION, levels=(1,))
    return load_foundation(TINY.model_copy(update={"patch_encoder": settings})).comparing


def _told(method: Built, encoder: VisionModel) -> Built:
    """With how its pictures are normalised in `weights`: of a profile's encoders `Foundation.identity` tells it."""
    mean, std = (values.flatten().tolist() for values in (encoder.mean, encoder.std))
    method.weights += f", normalised by {mean} and {std}"
    return method
