"""RegAD's own claim: on categories it has not seen, what is moved comes closer when it is registered."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from o2n.data.procedural import Category, draw
from o2n.evaluation.methods.regad import Network, RegAD, grids, look, train
from o2n.foundation import Foundation
from o2n.poses import inverse, moved, pose_of, warp
from tests.helpers import QUICK
from tests.o2n.evaluation.methods.conftest import FEW


@pytest.fixture(scope="module")
def network(regad: RegAD) -> Network:
    return regad.network


@pytest.mark.parametrize("family", ["chip", "pasta", "blister", "brain"])
def test_a_moved_part_comes_closer_and_its_pose_follows(family: str, network: Network, foundation: Foundation) -> None:
    good = list(draw(Category(family, 5), 6, 0, 1).pictures)
    left, right = (moved(good, [pose_of(0, x, 0.1)]) for x in (0.2, -0.2))
    seen = [grids(foundation, pictures) for pictures in (good, left, right)]
    with torch.no_grad():
        (still, pose), (one, one_pose), (other, other_pose) = (network(grid) for grid in seen)
    plain = [grid - network.centre for grid in seen]
    for registered, before in zip((one, other), plain[1:], strict=True):
        with_it = F.cosine_similarity(still, registered).mean()
        without = F.cosine_similarity(plain[0], before).mean()
        assert 1 - with_it < 0.85 * (1 - without)
    # The distance falls because the network looks where the part has gone, not because it looks at something flat.
    assert one_pose[:, 0, 2].mean() < pose[:, 0, 2].mean() < other_pose[:, 0, 2].mean()


def test_its_loss_falls_and_the_same_seed_gives_the_same_network(foundation: Foundation) -> None:
    looked = [look(foundation, one.good, seed) for seed, one in zip(range(4), FEW.categories(), strict=False)]
    (a, losses), (b, _) = (train(looked, 12, seed=3) for _ in range(2))
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_untrained_it_turns_nothing(foundation: Foundation) -> None:
    grid = torch.randn(2, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    registered, pose = Network(torch.zeros(8, 16, 16)).eval()(grid)
    assert torch.equal(pose, pose_of(0).expand(2, -1, -1))
    torch.testing.assert_close(registered, grid, atol=1e-5, rtol=1e-4)


def test_what_is_turned_back_is_where_it_was() -> None:
    coarse = torch.randn(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    grid = F.interpolate(coarse, size=32, mode="bicubic")
    pose = pose_of(0.3, 0.1, -0.05)[None]
    back = warp(warp(grid, pose), inverse(pose))
    assert (back - grid)[..., 10:22, 10:22].abs().mean() < 0.05


def test_it_is_trained_once_and_says_on_what(regad: RegAD, kept_at: Path) -> None:
    (file,) = kept_at.glob("regad-*.safetensors")
    before = file.stat().st_mtime_ns
    again = RegAD(QUICK, FEW, steps=150)
    assert file.stat().st_mtime_ns == before
    assert again.trained_on == FEW.name
    for one, other in zip(regad.network.parameters(), again.network.parameters(), strict=True):
        assert torch.equal(one, other)
