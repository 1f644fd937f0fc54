"""The competing methods, behind one small interface: `fit(references) -> score(pictures)`."""

from collections.abc import Callable

from o2n.evaluation.methods.anomalib import anomalib_padim, anomalib_patchcore, anomalib_winclip
from o2n.evaluation.methods.anomaly_dino import AnomalyDINO
from o2n.evaluation.methods.baselines import NEAREST_PICTURE, RANDOM_WEIGHTS, RAW_PATCHES
from o2n.evaluation.methods.coop import CoOp
from o2n.evaluation.methods.dino import anomaly_dino, nearest_patch_dino
from o2n.evaluation.methods.inctrl import InCTRL
from o2n.evaluation.methods.interface import Fitted, Method, Scores
from o2n.evaluation.methods.nearest_patch import NearestPatch
from o2n.evaluation.methods.padim import PaDiM
from o2n.evaluation.methods.patchcore import PatchCore
from o2n.evaluation.methods.regad import RegAD
from o2n.evaluation.methods.winclip import WinCLIP
from o2n.foundation import load_foundation
from o2n.profiles import Profile

Builder = Callable[[Profile], Method]


def _dino_rule(profile: Profile) -> Method:
    name = f"AnomalyDINO ({profile.name}'s encoder)"
    return AnomalyDINO(name, load_foundation(profile).comparing, profile.comparing.levels)


def _references_alone(profile: Profile) -> Method:
    encoder, warps = load_foundation(profile).comparing, profile.pool.warps
    return NearestPatch("S_N, references alone", encoder, profile.comparing.levels, warps)


# How the command line calls a method -> what builds it. Building trains what is trained on auxiliary pictures, once. A
# method whose weights a user must bring raises `FoundationError` that says which and from where.
METHODS: dict[str, Builder] = {
    "padim": PaDiM,
    "patchcore": PatchCore,
    "regad": RegAD,
    "coop": CoOp,
    "winclip": WinCLIP,
    "inctrl": InCTRL,
    "anomaly-dino": anomaly_dino,
    "anomaly-dino-rule": _dino_rule,
    "nearest-patch-dino": nearest_patch_dino,
    "nearest-patch": _references_alone,
    "raw-patches": lambda profile: RAW_PATCHES,
    "nearest-picture": lambda profile: NEAREST_PICTURE,
    "random-weights": lambda profile: RANDOM_WEIGHTS,
    "anomalib-patchcore": anomalib_patchcore,
    "anomalib-padim": anomalib_padim,
    "anomalib-winclip": anomalib_winclip,
}

__all__ = ["METHODS", "Builder", "Fitted", "Method", "Scores"]
