"""One task -> how well its queries are told apart, by the whole method and by each of its parts."""

import re
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from o2n import images
from o2n.evaluation.baselines import nearest_picture, random_encoder, raw_patches
from o2n.evaluation.fusions import AS_THEY_ARE, on_scales
from o2n.evaluation.metrics import aupro, auroc, masked_error, ssim_outside
from o2n.evaluation.tasks import Task
from o2n.foundation import load_foundation
from o2n.fusion import fuse_maps, upsample
from o2n.images import Picture
from o2n.onboard import onboard
from o2n.profiles import BRANCHES, PAPER, Profile
from o2n.store import CategoryStore
from o2n.text_map import refuse_trained_on
from o2n.triplet import TripletScorer
from o2n.version import scales_in


@dataclass(frozen=True)
class Judgement:
    """What came out for one task and one draw of its references.

    pictures: `Task.digest`. figures: each metric's name -> its value. AUROC, AUPRO and SSIM are fractions; "plain sum"
    is eq. (7) with the paper's weights, whatever the profile fuses; "error gone" is the share of the error inside the
    masks (query against normal twin) that the counterpart no longer has. Both fusions are of the branches as the
    profile smooths them.
    """

    group: str
    name: str
    draw: int
    seed: int
    pictures: str
    figures: dict[str, float]


def judge(task: Task, draw: int, profile: Profile, store: CategoryStore) -> Judgement:
    """Onboard the task's references, score its queries, and measure; baselines included."""
    refuse_trained_on(load_foundation(profile).text_map, task.group, map(images.digest, task.queries))
    category = re.sub(r"[^A-Za-z0-9]+", "-", f"{task.name}-{draw}-{profile.seed}")
    ref = onboard(category, task.references, profile, store, task.object_word).ref
    compared = TripletScorer(profile, store).compare(task.queries, [ref] * len(task.queries))
    scores = [fuse_maps(*one, profile) for one in compared]
    plain, scales = profile.fused_as(PAPER), scales_in(store, store.manifest(ref))
    summed = [fuse_maps(*on_scales(one, scales, AS_THEY_ARE), plain).score for one in compared]
    branches = np.array([[score.s_p, score.s_n, score.s_text] for score in scores])

    def of(values: list[float]) -> float:
        return auroc(np.array(values), task.labels)

    raw, raw_maps = raw_patches(task.references, task.queries)
    figures: dict[str, float] = {
        "fused": of([score.score for score in scores]),
        "plain sum": of(summed),
        **{name: auroc(branches[:, row], task.labels) for row, name in enumerate(BRANCHES)},
        "raw patches": auroc(raw, task.labels),
        "nearest picture": auroc(nearest_picture(task.references, task.queries), task.labels),
        "random weights": auroc(random_encoder(task.references, task.queries), task.labels),
    }
    if task.masks is not None:
        size = task.masks.shape[1]
        maps = np.stack([upsample(score.anomaly_map, size, size) for score in scores])
        coarse = np.stack([upsample(map_, size, size) for map_ in raw_maps])
        figures["pixel AUROC"] = auroc(maps, task.masks)
        figures["AUPRO"] = aupro(maps, task.masks)
        figures["raw patches, pixel AUROC"] = auroc(coarse, task.masks)
    if task.twins is not None and task.masks is not None:
        bad = task.masks.any(axis=(1, 2))
        side = min(profile.diffusion.resolution, size)
        masks = _smaller(task.masks, side)
        queries, twins = _unit(task.queries, side), _unit(task.twins, side)
        counterparts = _unit([score.counterpart for score in scores], side)
        before = masked_error(queries[bad], twins[bad], masks[bad])
        after = masked_error(counterparts[bad], twins[bad], masks[bad])
        figures["error gone"] = 1 - float(after.mean() / before.mean())
        figures["SSIM outside"] = float(ssim_outside(counterparts, queries, masks).mean())
    return Judgement(task.group, task.name, draw, profile.seed, task.digest, figures)


def _smaller(masks: NDArray[np.bool_], side: int) -> NDArray[np.bool_]:
    """Masks, bool (N, H, W), no smaller than `side`, as bool (N, side, side): what a defect touches is defective."""
    return F.adaptive_max_pool2d(torch.from_numpy(masks).float(), side).numpy() > 0


def _unit(pictures: list[Picture], side: int) -> np.ndarray:
    return np.stack([images.resize(picture, side) for picture in pictures]).astype(np.float32) / 255
