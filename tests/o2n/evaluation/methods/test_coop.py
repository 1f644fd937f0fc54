"""CoOp: words are learned, from the references alone, and still say normal and abnormal."""

import numpy as np
import torch

from o2n.evaluation.methods.coop import BEGINNING, CoOp, Prompts
from o2n.evaluation.methods.encoding import wholes
from o2n.foundation import Foundation
from o2n.prompts import ABNORMAL_STATES, NORMAL_STATES
from tests.helpers import QUICK, checks

REFERENCES = [checks(seed) for seed in range(4)]


def test_before_it_has_learned_its_prompts_are_the_written_ones(foundation: Foundation) -> None:
    prompts, clip = Prompts(foundation.clip, "chequered board"), foundation.clip
    features = prompts.features(prompts.beginning)
    for row, states in zip(features, (NORMAL_STATES, ABNORMAL_STATES), strict=True):
        texts = [f"{BEGINNING} {state.format('chequered board')}." for state in states]
        with torch.no_grad():
            written = clip.model.encode_text(clip.tokenize(texts), normalize=True).mean(dim=0)
        torch.testing.assert_close(row, written / written.norm(), atol=1e-5, rtol=1e-4)


def test_its_loss_falls_and_the_references_still_read_normal() -> None:
    fitted = CoOp(QUICK).fit(REFERENCES, "chequered board")
    assert np.mean(fitted.losses[-10:]) < 0.7 * fitted.losses[0]
    assert (fitted.score(REFERENCES).scores < 0.5).all()


def test_what_it_learned_stays_nearer_to_the_prompts_of_its_own_kind(foundation: Foundation) -> None:
    prompts = Prompts(foundation.clip, "chequered board")
    written = prompts.features(prompts.beginning)
    likeness = CoOp(QUICK).fit(REFERENCES, "chequered board").text @ written.T
    assert likeness[0, 0] > likeness[0, 1]
    assert likeness[1, 1] > likeness[1, 0]


def test_clip_itself_does_not_change(foundation: Foundation) -> None:
    before = wholes(foundation.clip, REFERENCES)
    weights = {name: tensor.clone() for name, tensor in foundation.clip.model.state_dict().items()}
    CoOp(QUICK, steps=5).fit(REFERENCES, "chequered board")
    assert all(torch.equal(weights[name], tensor) for name, tensor in foundation.clip.model.state_dict().items())
    assert torch.equal(before, wholes(foundation.clip, REFERENCES))
