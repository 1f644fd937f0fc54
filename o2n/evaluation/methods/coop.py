"""CoOp (Zhou et al., IJCV 2022) as a detector: the words before the state of a part are learned, CLIP stays as it is.

CoOp needs pictures of every class and few-shot detection has none of bad parts. What the papers that report CoOp here
did about that is not published; here the bad parts are the references with made-up defects, and nothing but the
category's own references is learned from.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.transformer import text_global_pool
from torch import Tensor

from o2n import images
from o2n.data.defects import TRAINING_DEFECTS
from o2n.data.procedural import spoil_photographs
from o2n.evaluation.methods.encoding import scored, wholes
from o2n.evaluation.methods.interface import Scores
from o2n.foundation import load_foundation
from o2n.images import Picture
from o2n.models import ClipModel
from o2n.pool import warped
from o2n.profiles import Profile
from o2n.prompts import ABNORMAL_STATES, NORMAL_STATES
from o2n.text import LOGIT_SCALE

# Outcomes are kept for as long as this stays the same: raise it when what is computed changes.
REVISION = 1

BEGINNING = "a photo of a"  # what the context is before it has learned anything
VIEWS = 6
LEARNING_RATE = 2e-3


class CoOp:
    """Args: steps: of the context's training."""

    name = "CoOp"

    def __init__(self, profile: Profile, steps: int = 100) -> None:
        self._profile, self._steps = profile, steps

    def fit(self, references: list[Picture], object_word: str) -> "CoOpFitted":
        clip = load_foundation(self._profile).clip
        # Made-up defects depend on the place in the list: a fixed order, so that the caller's decides nothing.
        known = [images.resize(picture, clip.resolution) for picture in sorted(references, key=images.digest)]
        good = known + warped(known, VIEWS)
        bad = list(spoil_photographs(np.stack(good), self._profile.seed, TRAINING_DEFECTS)[0])
        seen = wholes(clip, good + bad).clone()
        labels = (torch.arange(len(seen)) >= len(good)).long()
        prompts = Prompts(clip, object_word)
        context = prompts.beginning.clone().requires_grad_(True)
        optimizer = torch.optim.Adam([context], lr=LEARNING_RATE)
        losses = []
        for _ in range(self._steps):
            loss = F.cross_entropy(LOGIT_SCALE * seen @ prompts.features(context).T, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        with torch.no_grad():
            return CoOpFitted(clip, prompts.features(context), losses)


class Prompts:
    """All states of a part, each after the same words, whose embeddings are free."""

    def __init__(self, clip: ClipModel, object_word: str) -> None:
        states = [state.format(object_word) for state in (*NORMAL_STATES, *ABNORMAL_STATES)]
        self._text, device = getattr(clip.model, "text", clip.model), clip.mean.device
        self._tokens = clip.tokenize([f"{BEGINNING} {state}." for state in states]).to(device)
        with torch.no_grad():
            self._embedded = self._text.token_embedding(self._tokens)
        self._words = len(BEGINNING.split())
        self.beginning = self._embedded[0, 1 : 1 + self._words]

    def features(self, context: Tensor) -> Tensor:
        """What normal and abnormal read like after `context` (M, W): float32 (2, E) on the CPU, of length 1."""
        text, before = self._text, self._embedded[:, :1]
        own = context.expand(len(before), -1, -1)
        x = torch.cat([before, own, self._embedded[:, 1 + self._words :]], dim=1)
        x = text.ln_final(text.transformer(x + text.positional_embedding, attn_mask=text.attn_mask))
        x = text_global_pool(x, self._tokens, getattr(text, "text_pool_type", "argmax"))
        x = F.normalize(x @ text.text_projection, dim=-1).float().cpu()
        normal, abnormal = x.split([len(NORMAL_STATES), len(ABNORMAL_STATES)])
        return F.normalize(torch.stack([normal.mean(dim=0), abnormal.mean(dim=0)]), dim=-1)


@dataclass(frozen=True)
class CoOpFitted:
    """text: float32 (2, E), normal and abnormal. losses: of each step."""

    clip: ClipModel
    text: Tensor
    losses: list[float] = field(default_factory=list)

    def score(self, pictures: list[Picture]) -> Scores:
        return scored((LOGIT_SCALE * wholes(self.clip, pictures) @ self.text.T).double().softmax(dim=-1)[:, 1])
