"""Metrics of the field, exact over all thresholds. NumPy in, plain numbers out.

Exactness has a price: scikit-learn's curves hold 60 bytes for each score beside what they are given, and `aupro` 37 for
each pixel. Of 256 maps of 256 × 256 that is 1 GB.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score
from torchmetrics.functional.image import structural_similarity_index_measure

SSIM_RADIUS = 5  # of torchmetrics' Gaussian window of 11 pixels


def auroc(scores: NDArray[np.floating], labels: NDArray[np.bool_]) -> float:
    """The chance that an anomalous one scores higher than a normal one, ties counting half (scikit-learn).

    Args: scores and labels of one shape; True is anomalous.

    Raises:
        ValueError: all labels are the same.
    """
    labels = _both_kinds(labels, "AUROC")
    return float(roc_auc_score(labels, scores.ravel()))


def auprc(scores: NDArray[np.floating], labels: NDArray[np.bool_]) -> float:
    """Area under the precision-recall curve as average precision, in which nothing is interpolated (scikit-learn).

    Args and errors: as `auroc`.
    """
    labels = _both_kinds(labels, "AUPRC")
    return float(average_precision_score(labels, scores.ravel()))


def aupro(maps: NDArray[np.float32], masks: NDArray[np.bool_], limit: float = 0.3) -> float:
    """Area under the per-region overlap, up to a false positive rate of `limit`, over `limit` (Bergmann et al., 2021).

    Written here because scikit-learn and torchmetrics have none, and anomalib, which has one, would be the largest of
    what is installed for this alone; where it is installed, this is tested against it.

    Args: maps float32 and masks bool, both (N, H, W); a region is 8-connected.
    """
    share = np.zeros(masks.shape)
    regions = 0
    for mask, into in zip(masks, share, strict=True):
        numbers, count = ndimage.label(mask, structure=np.ones((3, 3)))
        sizes = np.bincount(numbers.ravel(), minlength=count + 1)
        into[mask] = 1 / sizes[numbers[mask]]
        regions += count
    if not regions or masks.all():
        raise ValueError("AUPRO needs anomalous regions and normal pixels")
    order = np.argsort(-maps, axis=None, kind="stable")
    values = maps.ravel()[order]
    ends = np.append(values[1:] != values[:-1], True)  # pixels of one value cross a threshold together
    false = np.cumsum(~masks.ravel()[order])[ends] / (~masks).sum()
    overlap = np.cumsum(share.ravel()[order])[ends] / regions
    false, overlap = np.append(0.0, false), np.append(0.0, overlap)
    inside = false < limit
    edge = np.interp(limit, false, overlap)
    return float(np.trapezoid(np.append(overlap[inside], edge), np.append(false[inside], limit)) / limit)


def masked_error(a: NDArray[np.floating], b: NDArray[np.floating], masks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean absolute difference inside each mask; pictures (N, H, W, 3), masks (N, H, W), none of them empty."""
    difference = np.abs(a - b).mean(axis=-1) * masks
    return np.asarray(difference.sum(axis=(1, 2)) / masks.sum(axis=(1, 2)))


def ssim_outside(a: NDArray[np.floating], b: NDArray[np.floating], masks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean SSIM of the pixels whose window does not touch the mask; pictures (N, H, W, 3) in [0, 1]."""
    x, y = (torch.from_numpy(array).permute(0, 3, 1, 2).float() for array in (a, b))
    _, image = structural_similarity_index_measure(x, y, data_range=1.0, reduction="none", return_full_image=True)
    window = np.ones((2 * SSIM_RADIUS + 1,) * 2, bool)
    kept = np.stack([~ndimage.binary_dilation(mask, window) for mask in masks])
    similarity = image.mean(dim=1).numpy()
    return np.asarray((similarity * kept).sum(axis=(1, 2)) / np.maximum(kept.sum(axis=(1, 2)), 1))


def _both_kinds(labels: NDArray[np.bool_], what: str) -> NDArray[np.bool_]:
    labels = labels.ravel()
    positive = int(labels.sum())
    if positive in (0, labels.size):
        raise ValueError(f"{what} needs both kinds: {positive} of {labels.size} are anomalous")
    return labels
