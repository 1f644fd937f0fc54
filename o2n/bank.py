"""Features -> FAISS memory bank -> distance to the nearest normal patch (eq. 5)."""

import functools
import math
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import faiss
import numpy as np
import torch
from torch import Tensor

from o2n.device import pick_device

# From how many rows FAISS asks BLAS for the products. FAISS 1.15 does so only where rows · width reach 128,000, and its
# own loops take 7 to 13 times as long for the patches of one picture (github.com/facebookresearch/faiss/pull/5022).
faiss.cvar.distance_compute_blas_threshold = 20


# Patches whose distances to all that is kept are in memory at once.
_PART = 1024

GPU_SCRATCH = 256 << 20  # bytes that searches on a GPU work in
# FAISS's GPU indexes are for one thread at a time, and the banks share one scratch.
_one_on_gpu = threading.RLock()


class MemoryBank:
    """The patches of normal pictures, one exact inner-product index per level.

    On vectors of length 1 the largest inner product is the smallest cosine distance, so `IndexFlatIP` is exact
    (github.com/facebookresearch/faiss/wiki/MetricType-and-distances). The index lives on the GPU that the
    models are on, if FAISS is its GPU build.
    """

    def __init__(self, features: Tensor, kept: Tensor | None = None, place_weight: float = 0.0) -> None:
        """Args:
        features: float32 (N, L, G, D) of N normal pictures, D-vectors of length 1.
        kept: integers (L, M), at each level the places of the patches that are kept, counted over all pictures from 0
            to N·G - 1, as `coreset` finds them; all by default.
        place_weight: what it costs a patch to be found elsewhere, as in `Profile`; 0, as in the paper: nothing.
        """
        self._place_weight = place_weight
        self._gpu = _gpu()
        known = _with_places(features, place_weight)
        _, levels, patches, width = known.shape
        vectors = [known[:, level].reshape(-1, width) for level in range(levels)]
        places = [torch.arange(len(all_)) if kept is None else kept[row] for row, all_ in enumerate(vectors)]
        self._pictures = len(features)
        self._indexes = [
            _index(all_ if kept is None else all_[at], self._gpu) for all_, at in zip(vectors, places, strict=True)
        ]
        if self._gpu:
            weakref.finalize(self, _release, self._indexes)
        # Of each vector the number of its picture; those that are added later are counted on, removed ones leave gaps.
        self._owners = [(at // patches).numpy() for at in places]

    @property
    def nbytes(self) -> int:
        return sum(index.ntotal * index.d * 4 for index in self._indexes)

    def add(self, features: Tensor) -> list[int]:
        """Put further normal pictures into the bank, float32 (N, L, G, D). Returns their numbers, to remove them by."""
        numbers = list(range(self._pictures, self._pictures + len(features)))
        known = _with_places(features, self._place_weight)
        for level, index in enumerate(self._indexes):
            vectors = known[:, level].reshape(-1, index.d)
            with _one_on_gpu:
                index.add(np.ascontiguousarray(vectors.cpu().numpy()))
            owners = np.repeat(numbers, features.shape[2])
            self._owners[level] = np.concatenate([self._owners[level], owners])
        self._pictures += len(features)
        return numbers

    def remove(self, pictures: Sequence[int]) -> None:
        """Take pictures out again, by their numbers: those that the bank was made of are 0 to N - 1.

        The others' vectors are moved up, not made anew; FAISS' own `remove_ids` does the same, but not on a GPU.

        Raises:
            ValueError: then nothing would be left to compare with.
        """
        left = [~np.isin(owners, pictures) for owners in self._owners]
        if not all(row.any() for row in left):
            raise ValueError("a memory bank cannot be emptied: add other pictures first")
        for level, index in enumerate(self._indexes):
            with _one_on_gpu:
                vectors = index.reconstruct_n(0, index.ntotal)[left[level]]
                index.reset()
                index.add(vectors)
            self._owners[level] = self._owners[level][left[level]]

    def distance(self, features: Tensor) -> Tensor:
        """min over m in M of 1 - <F_q,l, m_l> + w |p_q - p_m|²: with a place weight w of 0 the inner term of eq. (5).
        p is where a patch is, in sides of the picture.

        Args: features: float32 (B, L, G, D) of the queries.
        Returns: float32 (B, L, G), 0 or more, and with w = 0 at most 2; on the CPU.
        """
        queries = np.ascontiguousarray(_with_places(features, self._place_weight, asking=True).cpu().numpy())
        distances = np.empty(queries.shape[:3], np.float32)

        def search(level: int) -> None:
            for row, query in enumerate(queries):  # one by one, so that a distance is the same bits in any company
                similarity, _ = self._indexes[level].search(np.ascontiguousarray(query[level]), 1)
                distances[row, level] = 1 - similarity[:, 0]

        levels = range(len(self._indexes))
        if self._gpu:
            with _one_on_gpu:
                for level in levels:
                    search(level)
        else:
            # BLAS sums in an order that depends on the number of its threads: each level has one.
            with ThreadPoolExecutor(
                torch.get_num_threads(), initializer=faiss.omp_set_num_threads, initargs=(1,)
            ) as threads:
                list(threads.map(search, levels))
        return torch.from_numpy(distances).clamp_min(0)


def coreset(features: Tensor, budget: int, place_weight: float = 0.0) -> tuple[Tensor, float]:
    """What to keep of a bank that may take `budget` bytes: at every level patches that leave no other one far away.

    The greedy k-center choice of PatchCore (Roth et al., CVPR 2022, algorithm 1): begin with the first patch and always
    add the one that is farthest from those chosen.

    Args: as for `MemoryBank`: features: float32 (N, L, G, D); place_weight.

    Returns: for `MemoryBank`, int64 (L, M) in ascending order; and the largest distance, as the bank's, of a patch that
        is left out to the nearest that is kept. Euclidean, which is √(2d), no distance to the bank grows by more.
    """
    known, asking = (_with_places(features, place_weight, asking) for asking in (False, True))
    _, levels, patches, width = known.shape
    count = min(len(features) * patches, max(1, budget // (levels * width * 4)))
    kept, farthest = [], 0.0
    for level in range(levels):
        distance = torch.full((len(features) * patches,), torch.inf)
        chosen, apart = _k_center(known[:, level].flatten(0, 1), asking[:, level].flatten(0, 1), distance, count)
        kept.append(torch.tensor(chosen).sort().values)
        farthest = max(farthest, apart)
    return torch.stack(kept), max(0.0, farthest)


def coreset_without(features: Tensor, kept: Tensor, pictures: Sequence[int], place_weight: float = 0.0) -> Tensor:
    """A coreset of the same size without some pictures: what was kept of the others, and in the place of what was kept
    of these, one by one, whichever patch is farthest from all that is kept by then.

    Args: as for `MemoryBank`; pictures: their numbers.

    Returns: for `MemoryBank`, int64 (L, M') in ascending order; M' is M, or less where the others have fewer patches.
    """
    known, asking = (_with_places(features, place_weight, asking) for asking in (False, True))
    gone = torch.zeros(features.shape[0], features.shape[2], dtype=torch.bool)
    gone[list(pictures)] = True
    gone = gone.flatten()
    count = min(kept.shape[1], int((~gone).sum()))
    found = []
    for level, row in enumerate(kept):
        vectors, others = known[:, level].flatten(0, 1), asking[:, level].flatten(0, 1)
        left = row[~gone[row]]
        distance = torch.full(gone.shape, torch.inf)
        if len(left):
            distance = torch.cat([(1 - part @ vectors[left].T).amin(dim=1) for part in others.split(_PART)])
        distance[left] = distance[gone] = -torch.inf
        more, _ = _k_center(vectors, others, distance, count - len(left))
        found.append(torch.cat([left, torch.tensor(more, dtype=torch.int64)]).sort().values)
    return torch.stack(found)


def _k_center(known: Tensor, asking: Tensor, distance: Tensor, count: int) -> tuple[list[int], float]:
    """The rows of `count` patches, always the one that is farthest from those chosen, and how far the farthest is then.

    Args: known, asking: float32 (P, D). distance: float32 (P,), to those chosen so far, -inf of what may not be chosen.
    """
    chosen: list[int] = []
    for _ in range(count):
        chosen.append(int(distance.argmax()))
        distance = torch.minimum(distance, 1 - asking @ known[chosen[-1]])
        distance[chosen[-1]] = -torch.inf  # rounding must not choose it twice
    return chosen, float(distance.max())


def picture_distance(features: Tensor, normal: Tensor) -> Tensor:
    """How far queries are from normal pictures as wholes: the mean over levels and patches of the distance to the
    nearest patch of that picture. Unlike the maximum of eq. (5) it is not ruled by the defect, so it finds the picture
    that shows the same part in the same state, and as places do not count, a shifted part finds itself too.

    Args: features: float32 (B, L, G, D); normal: float32 (N, L, G, D), of N normal pictures.
    Returns: float32 (B, N) in [0, 2].
    """
    similarity = [torch.einsum("blgd,lhd->blgh", features, picture).amax(dim=-1) for picture in normal]
    return (1 - torch.stack(similarity, dim=1)).mean(dim=(-2, -1)).clamp_min(0)


def _with_places(features: Tensor, weight: float, asking: bool = False) -> Tensor:
    """Features that know where in the picture they are, so that an inner product does: of a query's patch at p and a
    bank's at q it is <F, m> + 2w p·q - w |p|² - w |q|², which is <F, m> - w |p - q|².

    Args: features: float32 (N, L, G, D). asking: they are a query's.
    Returns: float32 (N, L, G, D + 4); as they are where places do not count.
    """
    if weight == 0:
        return features
    side = math.isqrt(features.shape[2])
    along = (torch.arange(side, device=features.device) + 0.5) / side - 0.5
    places = torch.cartesian_prod(along, along)
    squares = weight * places.square().sum(dim=-1, keepdim=True)
    ones = torch.ones_like(squares)
    ends = [-squares, ones] if asking else [ones, -squares]
    own = torch.cat([math.sqrt(2 * weight) * places, *ends], dim=-1)
    return torch.cat([features, own.expand(*features.shape[:2], -1, -1)], dim=-1)


def _index(vectors: Tensor, gpu: torch.device | None) -> faiss.Index:
    index: faiss.Index = faiss.IndexFlatIP(vectors.shape[1])
    with _one_on_gpu:
        if gpu:
            index = faiss.index_cpu_to_gpu(_scratch(), gpu.index, index)
        index.add(np.ascontiguousarray(vectors.cpu().numpy()))
    return index


def _release(indexes: list[faiss.Index]) -> None:
    """Gives what a bank held back to the scratch, which must not be searched in meanwhile."""
    with _one_on_gpu:
        indexes.clear()


def _gpu() -> torch.device | None:
    device = pick_device()
    return device if device.type == "cuda" and getattr(faiss, "get_num_gpus", lambda: 0)() > 0 else None


@functools.cache
def _scratch() -> "faiss.StandardGpuResources":
    """What all banks share of the GPU. Of its own accord each index takes 1.5 GB of it
    (github.com/facebookresearch/faiss/wiki/Faiss-on-the-GPU)."""
    resources = faiss.StandardGpuResources()
    resources.setTempMemory(GPU_SCRATCH)
    return resources
