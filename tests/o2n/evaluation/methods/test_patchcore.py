"""PatchCore: the coreset covers, few of its patches say what all say, and it knows what a patch's neighbours know."""

import numpy as np
import pytest
import torch

from o2n.evaluation.methods.patchcore import NEIGHBOURS, PatchCore, PatchCoreFitted, aware, coreset, distances
from o2n.foundation import Foundation
from tests.helpers import QUICK, checks


def clusters(count: int, each: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    centres = 10 * torch.randn(count, 8, generator=generator)
    return (centres[:, None] + 0.1 * torch.randn(count, each, 8, generator=generator)).flatten(0, 1)


def test_the_coreset_takes_one_of_each_cluster_before_a_second_of_any() -> None:
    rows = coreset(clusters(7, 30), 7)
    assert sorted((rows // 30).tolist()) == list(range(7))


def test_the_coreset_covers_better_than_a_random_choice_and_does_not_depend_on_the_order() -> None:
    rng = torch.Generator().manual_seed(2)
    vectors = torch.randn(400, 8, generator=rng)
    rows = coreset(vectors, 40)
    assert len(set(rows.tolist())) == 40

    def uncovered(chosen: torch.Tensor) -> float:
        return float(distances(vectors, vectors[chosen]).min(dim=-1).values.max())

    assert all(uncovered(rows) < uncovered(torch.randperm(400, generator=rng)[:40]) for _ in range(10))
    order = torch.randperm(400, generator=rng)
    assert set(order[coreset(vectors[order], 40)].tolist()) == set(rows.tolist())


def test_a_tenth_of_the_patches_ranks_as_all_of_them() -> None:
    references, queries = [checks(seed) for seed in range(4)], [checks(seed) for seed in range(4, 12)]
    for query, size in zip(queries, range(0, 24, 3), strict=True):
        query[10 : 10 + size, 10 : 10 + size] = 255
    few, all_ = (PatchCore(QUICK, share).fit(references, "board").score(queries).scores for share in (0.1, 1.0))
    assert np.corrcoef(few, all_)[0, 1] > 0.9


def test_a_reference_itself_is_at_no_distance_from_a_whole_bank() -> None:
    references = [checks(seed) for seed in range(2)]
    scored = PatchCore(QUICK, share=1.0).fit(references, "board").score(references)
    assert scored.maps is not None
    np.testing.assert_allclose(scored.maps, 0, atol=1e-3)


def test_a_patch_is_aware_of_its_neighbours_and_of_no_others() -> None:
    features = torch.zeros(1, 1, 64, 4)
    features[0, 0, 27] = 1  # row 3, column 3 of 8
    touched = aware(features)[0].abs().sum(dim=-1).view(8, 8) > 0
    assert touched.nonzero().tolist() == [[row, column] for row in (2, 3, 4) for column in (2, 3, 4)]


@pytest.mark.parametrize("size", [2, 5, 40])
def test_a_picture_scores_as_in_anomalib(size: int, foundation: Foundation) -> None:
    module = pytest.importorskip("anomalib.models.image.patchcore.torch_model")
    generator = torch.Generator().manual_seed(3)
    bank, asked = torch.randn(size, 8, generator=generator), torch.randn(6, 25, 8, generator=generator)
    theirs = module.PatchcoreModel(["layer1"], "resnet18", pre_trained=False, num_neighbors=NEIGHBOURS)
    theirs.memory_bank = bank
    near, where = (found.view(6, 25) for found in theirs.nearest_neighbors(asked.flatten(0, 1), 1))
    expected = theirs.compute_anomaly_score(near, where, asked.flatten(0, 1))
    fitted = PatchCoreFitted(foundation.clip, (1,), bank)
    scores, maps = zip(*(fitted._score(one) for one in asked), strict=True)
    torch.testing.assert_close(torch.stack(scores), expected)
    torch.testing.assert_close(torch.stack(maps), near)
