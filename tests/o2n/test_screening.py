"""Which generated pictures enter the bank: none that strays farther than references do, and none twice."""

import io
from pathlib import Path

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from o2n import images
from o2n.customize import adapter_loaded
from o2n.foundation import Foundation, load_foundation
from o2n.images import Picture
from o2n.normals import encode
from o2n.onboard import onboard
from o2n.pool import draw_pool
from o2n.profiles import Profile
from o2n.screening import acceptable, look_alike
from o2n.store import CategoryStore
from o2n.triplet import TripletScorer
from o2n.version import unpack, unpack_origins
from tests.helpers import QUICK, checks, stripes, unit

SCREENED: Profile = QUICK.model_copy(
    update={"pool": QUICK.pool.model_copy(update={"screened": True, "pictures": 6}), "fusion": "calibrated"}
)


def draw_pool_of(foundation: Foundation, references: list[Picture], adapter: bytes) -> Tensor:
    """The features of the first pictures that are drawn."""
    with adapter_loaded(foundation.diffusion, "test", adapter) as name:
        return encode(foundation, draw_pool(foundation.diffusion, name, references, "board", SCREENED))


def board(shift: int) -> Picture:
    """One and the same good part, moved a little."""
    return np.roll(checks(0), shift, axis=1)


def test_a_negative_a_spoilt_picture_and_a_copy_do_not_pass() -> None:
    foundation = load_foundation(QUICK)
    spoilt = board(6).copy()
    spoilt[20:40, 20:40] = (200, 0, 0)
    pictures = [board(0), 255 - board(4), board(5), spoilt, board(5), board(7)]
    references = encode(foundation, [board(shift) for shift in range(4)])
    assert acceptable(references, encode(foundation, pictures)) == [2, 5]


@given(seed=st.integers(0, 50), spread=st.floats(0.0, 2.0), copies=st.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_what_passes_is_near_enough_and_new(seed: int, spread: float, copies: int) -> None:
    references = unit(3, 2, 4, 8, seed=seed)
    moved = torch.nn.functional.normalize(references[[0, 1, 2, 0]] + spread * unit(4, 2, 4, 8, seed=seed + 1), dim=-1)
    generated = torch.cat([moved, *[moved[:1]] * copies, references[:1]])
    found = acceptable(references, generated)
    assert found == sorted(set(found))
    assert len(moved) + copies not in found  # the reference itself
    assert sum(row == 0 or len(moved) <= row < len(moved) + copies for row in found) <= 1
    assert found == acceptable(references, generated)


def test_one_photograph_saved_twice_is_told_from_two_of_like_parts() -> None:
    first, second = checks(0, 200, 200), stripes(0, 200, 200)
    saved = io.BytesIO()
    Image.fromarray(second).save(saved, "JPEG", quality=90)
    smaller = Image.fromarray(first).resize((100, 100), Image.Resampling.LANCZOS)
    pictures = [first, second, checks(0), np.asarray(smaller), np.asarray(Image.open(saved)), checks(1)]
    features = encode(load_foundation(QUICK), [images.resize(picture, 64) for picture in pictures])
    assert look_alike(features) == [(0, 3), (1, 4)]
    assert look_alike(torch.cat([features[:1]] * 3)) == [(0, 1), (0, 2)]


def test_a_bank_is_filled_up_with_pictures_that_pass(tmp_path: Path) -> None:
    """After so short a training few of the first do."""
    store = CategoryStore(tmp_path.as_uri())
    references = [board(shift) for shift in range(3)]
    made = onboard("board", references, SCREENED, store, more_normal=[checks(20)])
    ref, manifest = made.ref, store.manifest(made.ref)
    features, pool = (unpack(store.get_blob(manifest.blobs[blob]), blob) for blob in ("features", "pool"))
    views = len(references) * (1 + SCREENED.pool.warps)
    assert len(features) - views == len(pool) == SCREENED.pool.pictures - len(references)
    assert made.warnings == ()
    foundation = load_foundation(SCREENED)
    first = draw_pool_of(foundation, references, store.get_blob(manifest.blobs["adapter"]))
    assert len(acceptable(features[:3], first)) < len(pool) == len(acceptable(features[:3], features[views:]))
    # What shows a reference is nearer to it than to others, and the bank without that reference is without it too.
    origins = unpack_origins(store.get_blob(manifest.blobs["pool"]), "pool")
    assert len(origins) == len(pool)
    assert {origin for origin in origins if origin is not None} <= {0, 1, 2}
    extra = store.calibration(ref).pictures[-1]
    (found,) = TripletScorer(SCREENED, store).score([checks(20)], [ref])
    assert (extra.score, extra.s_n) == (found.score, found.s_n)
    # The version is made in another way than an unscreened one, and scored in the same: one service serves both.
    unscreened = SCREENED.model_copy(update={"pool": QUICK.pool, "name": "before"})
    (other,) = TripletScorer(unscreened, store).score([checks(20)], [ref])
    assert other.score == found.score
    assert np.isfinite(found.anomaly_map).all()
    assert foundation.identity == manifest.foundation


def test_a_bank_that_cannot_be_filled_up_is_told(tmp_path: Path) -> None:
    """References so much alike that nothing drawn comes as near to them as they are to each other."""
    other = checks(0).copy()
    other[0, 0] ^= 1
    store = CategoryStore(tmp_path.as_uri())
    made = onboard("board", [checks(0), other], SCREENED, store)
    assert "the bank has 0 generated pictures, not 4: of the last 48 none passes for normal" in " ".join(made.warnings)
    manifest = store.manifest(made.ref)
    assert len(unpack(store.get_blob(manifest.blobs["pool"]), "pool")) == 0
    assert len(unpack(store.get_blob(manifest.blobs["features"]), "features")) == 2 * (1 + SCREENED.pool.warps)
