"""Features -> FAISS memory bank -> distance to the nearest normal patch (eq. 5)."""

import faiss
import numpy as np
import torch
from torch import Tensor


class MemoryBank:
    """Every patch of every normal picture, one exact inner-product index per level.

    On vectors of length 1 the largest inner product is the smallest cosine distance, so `IndexFlatIP` is exact
    (github.com/facebookresearch/faiss/wiki/MetricType-and-distances). The index lives on the GPUs where FAISS has them.
    """

    def __init__(self, features: Tensor) -> None:
        """Args: features: float32 (N, L, G, D) of N normal pictures, D-vectors of length 1."""
        pictures, levels, patches, width = features.shape
        self.nbytes = pictures * levels * patches * width * 4
        self._indexes = [_index(features[:, level].reshape(-1, width)) for level in range(levels)]

    def distance(self, features: Tensor) -> Tensor:
        """min over m in M of 1 - <F_q,l, m_l>, the inner term of eq. (5).

        Args: features: float32 (B, L, G, D) of the queries.
        Returns: float32 (B, L, G) in [0, 2], on the CPU.
        """
        queries = np.ascontiguousarray(features.cpu().numpy())
        distances = np.empty(queries.shape[:3], np.float32)
        for level, index in enumerate(self._indexes):
            for row, query in enumerate(queries):  # one by one, so that a distance is the same bits in any company
                similarity, _ = index.search(np.ascontiguousarray(query[level]), 1)
                distances[row, level] = 1 - similarity[:, 0]
        return torch.from_numpy(distances).clamp_min(0)


def picture_distance(features: Tensor, normal: Tensor) -> Tensor:
    """How far queries are from normal pictures as wholes: the mean over levels and patches of the distance to the
    nearest patch of that picture. Unlike the maximum of eq. (5) it is not ruled by the defect, so it finds the picture
    that shows the same part in the same state, and as places do not count, a shifted part finds itself too.

    Args: features: float32 (B, L, G, D); normal: float32 (N, L, G, D), of N normal pictures.
    Returns: float32 (B, N) in [0, 2].
    """
    similarity = [torch.einsum("blgd,lhd->blgh", features, picture).amax(dim=-1) for picture in normal]
    return (1 - torch.stack(similarity, dim=1)).mean(dim=(-2, -1)).clamp_min(0)


def _index(vectors: Tensor) -> faiss.Index:
    index: faiss.Index = faiss.IndexFlatIP(vectors.shape[1])
    if getattr(faiss, "get_num_gpus", lambda: 0)() > 0:
        index = faiss.index_cpu_to_all_gpus(index)
    index.add(np.ascontiguousarray(vectors.cpu().numpy()))
    return index
