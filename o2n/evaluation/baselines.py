"""What any method must beat: the pixels themselves, and an encoder that has learned nothing."""

import functools

import faiss
import numpy as np
from numpy.typing import NDArray

from o2n import images
from o2n.bank import MemoryBank
from o2n.features import patch_features
from o2n.foundation import load_from
from o2n.images import Picture
from o2n.models import ClipModel
from o2n.profiles import TINY

PATCH, STRIDE, SIZE = 8, 4, 64


def raw_patches(references: list[Picture], queries: list[Picture]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Distance of every 8 by 8 pixel patch of a query (at 64 px, every 4 px) to the nearest one of the references.

    Returns: the largest of each query, float32 (N,), and all of them, float32 (N, g, g).
    """
    index = faiss.IndexFlatL2(PATCH * PATCH * 3)
    index.add(_patches(references).reshape(-1, index.d))
    wanted = _patches(queries)
    count, side = wanted.shape[:2]
    squared, _ = index.search(wanted.reshape(-1, index.d), 1)
    maps = np.sqrt(np.maximum(squared, 0)).reshape(count, side, side)
    return maps.max(axis=(1, 2)), maps


def nearest_picture(references: list[Picture], queries: list[Picture]) -> NDArray[np.float32]:
    """Distance of each query to the nearest reference, pixel by pixel, float32 (N,)."""
    known, wanted = (_small(pictures).reshape(len(pictures), -1) for pictures in (references, queries))
    return np.asarray(np.stack([np.linalg.norm(known - query, axis=1).min() for query in wanted]), np.float32)


def random_encoder(references: list[Picture], queries: list[Picture]) -> NDArray[np.float32]:
    """S_N of eq. (5) with the embedded encoder's architecture and untrained weights, references alone in the bank."""
    clip = _untrained()
    bank = MemoryBank(patch_features(clip, [images.resize(p, SIZE) for p in references], TINY.encoder.levels))
    distance = bank.distance(patch_features(clip, [images.resize(p, SIZE) for p in queries], TINY.encoder.levels))
    return np.asarray(distance.amax(dim=-1).mean(dim=-1).numpy())


@functools.cache
def _untrained() -> ClipModel:
    return load_from(TINY, None).clip


def _small(pictures: list[Picture]) -> NDArray[np.floating]:
    return np.stack([images.resize(picture, SIZE) for picture in pictures]).astype(np.float32) / 255


def _patches(pictures: list[Picture]) -> NDArray[np.floating]:
    """float32 (N, g, g, 192): all patches of all pictures."""
    windows = np.lib.stride_tricks.sliding_window_view(_small(pictures), (PATCH, PATCH), axis=(1, 2))
    windows = windows[:, ::STRIDE, ::STRIDE]
    return np.ascontiguousarray(windows).reshape(*windows.shape[:3], -1)
