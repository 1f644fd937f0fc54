"""InCTRL's own claim: heads trained on other categories judge residuals of new ones, and untrained ones do not."""

import numpy as np
import pytest
import torch

from o2n.data.procedural import VALIDATION, Category, draw
from o2n.evaluation.methods.inctrl import REFERENCES, Heads, InCTRL, Queries, look, nearest, train, turned
from o2n.evaluation.metrics import auroc
from o2n.foundation import Foundation
from tests.helpers import QUICK
from tests.o2n.evaluation.methods.conftest import FEW


@pytest.fixture(scope="module")
def unseen(foundation: Foundation) -> list[Queries]:
    """The validation families."""
    made = []
    for family in VALIDATION:
        drawn = draw(Category(family, 2026), REFERENCES + 10, 10, 1)
        pictures = list(drawn.pictures)
        made.append(look(foundation, drawn.category.word, pictures[: REFERENCES + 10], pictures[REFERENCES + 10 :]))
    return made


def judged(heads: Heads, tasks: list[Queries]) -> tuple[float, float]:
    """Mean AUROC of the image-level head and of the holistic head without the largest residual beside it."""
    image, holistic = [], []
    for task in tasks:
        residual = task.distance[:, :4].amin(dim=1).mean(dim=1)
        with torch.no_grad():
            score, whole = heads(task.whole, task.known[:4].expand(len(task.whole), -1, -1), residual, task.text)
        bad = task.bad.bool().numpy()
        image.append(auroc(score.numpy(), bad))
        holistic.append(auroc((1.5 * whole - 0.5 * residual.amax(dim=-1)).numpy(), bad))
    return float(np.mean(image)), float(np.mean(holistic))


def test_trained_heads_tell_unseen_categories_apart_and_untrained_ones_do_not(
    inctrl: InCTRL, unseen: list[Queries]
) -> None:
    trained, untrained = judged(inctrl.heads, unseen), [judged(_untrained(seed), unseen) for seed in range(3)]
    assert np.mean(trained) > 0.6
    assert np.mean(trained) > np.mean(untrained) + 0.1


def test_a_larger_residual_anywhere_scores_higher_on_the_whole(inctrl: InCTRL, unseen: list[Queries]) -> None:
    """The holistic head was trained to, and nothing forces it to."""
    task = unseen[0]
    residual, known = task.distance[:, :4].amin(dim=1).mean(dim=1), task.known[:4].expand(len(task.whole), -1, -1)
    with torch.no_grad():
        _, before = inctrl.heads(task.whole, known, residual, task.text)
        _, after = inctrl.heads(task.whole, known, residual + 0.3, task.text)
    assert (after > before).all()


def test_the_same_seed_gives_the_same_heads(unseen: list[Queries]) -> None:
    a, b, other = (train(unseen[:3], epochs=2, seed=seed).state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert any(not torch.equal(a[name], other[name]) for name in a)


def test_a_patch_that_a_reference_shows_has_no_residual() -> None:
    features = torch.nn.functional.normalize(
        torch.randn(3, 2, 9, 5, generator=torch.Generator().manual_seed(0)), dim=-1
    )
    distance = nearest(features[:1], features)
    assert distance.shape == (1, 3, 2, 9)
    torch.testing.assert_close(distance[0, 0], torch.zeros(2, 9), atol=1e-6, rtol=0)
    assert (distance[0, 1:] > 0).all()


def test_a_residual_map_is_turned_whole() -> None:
    rng, residual = np.random.default_rng(0), torch.arange(16.0)
    seen = {tuple(turned(residual, rng).tolist()) for _ in range(100)}
    assert len(seen) == 8
    assert all(sorted(one) == residual.tolist() for one in seen)


def test_what_it_was_trained_on_is_kept_with_it(inctrl: InCTRL) -> None:
    assert inctrl.trained_on == FEW.name
    assert InCTRL(QUICK, FEW).heads.state_dict().keys() == inctrl.heads.state_dict().keys()


def _untrained(seed: int) -> Heads:
    torch.manual_seed(seed)
    return Heads(128, 256).eval()
