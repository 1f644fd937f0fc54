"""Properties of the equations, one by one, for any numbers: (1) to (4) here; (5) in `test_bank.py`, (6) in
`test_text_map.py`, (7) in `test_fusion.py`."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from o2n.customize import _denoising_losses
from o2n.features import personal_distance
from o2n.foundation import Foundation
from o2n.fusion import image_score
from o2n.models import to_unit
from o2n.personalize import most_similar, noise_for, seeded_noise

SEEDS = st.integers(0, 10_000)


@dataclass
class Oracle:
    """Knows x_0, and so predicts without error what a model of `kind` is asked for."""

    kind: str
    x0: Tensor

    @property
    def noising(self) -> DDIMScheduler:
        return DDIMScheduler(prediction_type=self.kind)

    def predict(self, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        scheduler = self.noising
        alpha = scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
        noise = (x - alpha.sqrt() * self.x0) / (1 - alpha).sqrt()
        return {"sample": self.x0, "epsilon": noise, "v_prediction": scheduler.get_velocity(self.x0, noise, t)}[
            self.kind
        ]


@given(kind=st.sampled_from(["sample", "epsilon", "v_prediction"]), spoilt=st.booleans(), seed=SEEDS)
@settings(max_examples=60, deadline=None)
def test_equation_1_is_nought_for_who_knows_the_flawless_picture(kind: str, spoilt: bool, seed: int) -> None:
    """Whatever is predicted, with a made-up defect or without: x_0 is what is asked for, and nothing else."""
    x0 = seeded_noise(seed, (3, 4, 8, 8))
    shown = x0 + spoilt * seeded_noise(seed + 1, (3, 4, 8, 8))
    text, t, noise = (
        torch.zeros(1, 1, 1),
        0.9 * seeded_noise(seed + 2, (3,)).sigmoid(),
        seeded_noise(seed + 3, x0.shape),
    )
    for knows, right in ((x0, True), (x0 + 1, False)):
        oracle = Oracle(kind, knows)
        losses = _denoising_losses(oracle.noising, oracle.predict, x0, text, shown, t, noise)
        assert (losses < 1e-4).all() if right else (losses > 1e-4).all()


@given(seed=SEEDS, count=st.integers(1, 4), place=st.integers(0, 4))
@settings(max_examples=25, deadline=None)
def test_equation_2_prefers_nothing_to_the_query_itself(seed: int, count: int, place: int) -> None:
    rng = np.random.default_rng(seed)
    pictures = rng.integers(0, 256, (count + 1, 32, 32, 3), dtype=np.uint8)
    unit = to_unit(list(pictures), torch.device("cpu"))
    query = unit[min(place, count)]
    assert torch.equal(most_similar(query, unit), query)


@given(t=st.integers(0, 999), seed=SEEDS)
@settings(max_examples=40, deadline=None)
def test_equation_3_noises_as_it_says(foundation: Foundation, t: int, seed: int) -> None:
    """√α_t x + √(1-α_t) ε: the two weights are a point on the unit circle, and noise takes over as t grows."""
    scheduler = foundation.diffusion.noising
    x, noise = seeded_noise(seed, (1, 3, 4, 4)), seeded_noise(seed + 1, (1, 3, 4, 4))
    alpha = scheduler.alphas_cumprod[t]
    found = scheduler.add_noise(x, noise, torch.tensor([t]))
    torch.testing.assert_close(found, alpha.sqrt() * x + (1 - alpha).sqrt() * noise)
    assert t == 0 or alpha < scheduler.alphas_cumprod[t - 1]


@given(seed=st.integers(0, 1000), adapter=st.text("0123456789abcdef", min_size=64, max_size=64))
@settings(max_examples=25, deadline=None)
def test_the_noise_of_equation_3_is_gaussian_and_a_function_of_content(seed: int, adapter: str) -> None:
    picture = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    torch.manual_seed(seed)  # the process's own state is of no account
    noise = noise_for(picture, adapter, (3, 32, 32))
    torch.manual_seed(seed + 1)
    assert torch.equal(noise, noise_for(picture.copy(), adapter, (3, 32, 32)))
    assert abs(noise.mean()) < 0.1
    assert abs(noise.std() - 1) < 0.1
    other = picture.copy()
    other[0, 0, 0] ^= 1
    assert not torch.equal(noise, noise_for(other, adapter, (3, 32, 32)))


@given(seed=SEEDS, shape=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 6), st.integers(2, 8)))
@settings(max_examples=40, deadline=None)
def test_equation_4_is_one_minus_the_cosine_at_the_same_place(seed: int, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(seed)
    query, counterpart = rng.normal(size=(2, *shape))
    cosine = (query * counterpart).sum(-1) / np.linalg.norm(query, axis=-1) / np.linalg.norm(counterpart, axis=-1)
    unit = [torch.nn.functional.normalize(torch.from_numpy(x), dim=-1) for x in (query, counterpart)]
    found = personal_distance(*unit)
    np.testing.assert_allclose(found.numpy(), 1 - cosine, atol=1e-9)
    torch.testing.assert_close(found, personal_distance(*unit[::-1]))
    assert personal_distance(unit[0], unit[0]).max() < 1e-9
    # Its outer terms: the worst place of every level, and the mean of the levels.
    local = found[0].float().numpy()
    assert image_score(local) == pytest.approx(np.mean([max(level) for level in local.tolist()]), abs=1e-6)
    assert image_score(local[:, rng.permutation(local.shape[1])]) == pytest.approx(image_score(local))
