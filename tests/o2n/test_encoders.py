"""An encoder of timm for S_P and S_N beside the CLIP of S_text: small DINOv2 and DINOv3 in the hub's own layout."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from timm.models import save_for_hf

from o2n.category import Manifest
from o2n.device import pick_device
from o2n.errors import FoundationError
from o2n.features import features_to_compare, features_to_read
from o2n.foundation import load_foundation
from o2n.images import resize
from o2n.onboard import onboard
from o2n.profiles import TINY, EncoderSettings, Profile
from o2n.store import CategoryStore
from o2n.triplet import TripletScorer
from tests.helpers import QUICK, checks, stripes

SMALL = {"embed_dim": 24, "depth": 3, "num_heads": 2}
KINDS = {"vit_small_patch14_dinov2": 56, "vit_small_patch16_dinov3": 64}  # resolutions; grids of 4 × 4


@pytest.fixture(scope="module", params=KINDS)
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> EncoderSettings:
    side = KINDS[request.param]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        model = timm.create_model(request.param, num_classes=0, img_size=side, **SMALL)
    folder = tmp_path_factory.mktemp(request.param)
    save_for_hf(model, folder, model_args={"img_size": side, **SMALL}, safe_serialization=True)
    return EncoderSettings(source=str(folder), resolution=side, levels=(2, 3))


@pytest.fixture(scope="module")
def profile(encoder: EncoderSettings) -> Profile:
    return QUICK.model_copy(update={"patch_encoder": encoder})


def test_a_vision_transformer_of_timm_compares_and_clip_reads(profile: Profile) -> None:
    foundation = load_foundation(profile)
    pictures = [resize(checks(seed), 64) for seed in (0, 1)]
    compared = features_to_compare(foundation, pictures)
    assert compared.shape == (2, 2, 16, 24)
    torch.testing.assert_close(compared.norm(dim=-1), torch.ones(2, 2, 16))
    alone = load_foundation(QUICK)
    own = features_to_compare(alone, pictures)
    assert torch.equal(features_to_read(foundation, pictures, compared), own)
    assert features_to_read(alone, pictures, own) is own
    assert foundation.identity != alone.identity


def test_the_last_level_is_what_the_model_itself_puts_out(profile: Profile) -> None:
    encoder = load_foundation(profile).comparing
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        tokens = encoder.model.forward_features(encoder.pixels(x))[:, encoder.model.num_prefix_tokens :]
        (found,) = encoder.blocks(x, (3,))
    torch.testing.assert_close(found, tokens)


def test_the_whole_road_with_two_encoders(profile: Profile, tmp_path: Path) -> None:
    store = CategoryStore(tmp_path.as_uri())
    calibrated = profile.model_copy(update={"fusion": "calibrated"})
    ref = onboard("board", [checks(0), checks(1)], calibrated, store, more_normal=[checks(20)]).ref
    scorer = TripletScorer(calibrated, store)
    pictures = [checks(0), checks(20), stripes(1)]
    together = scorer.score(pictures, [ref] * 3)
    off = 0.0 if pick_device().type == "cpu" else 1e-5
    for picture, score in zip(pictures, together, strict=True):
        (alone,) = scorer.score([picture], [ref])
        assert (alone.score, alone.s_text) == pytest.approx((score.score, score.s_text), abs=off, rel=0)
        assert score.anomaly_map.shape == (4, 4)
        assert np.isfinite(score.anomaly_map).all()
    # What calibrates is the very score that a query gets, with two encoders too.
    extra = store.calibration(ref).pictures[-1]
    assert (extra.s_p, extra.s_n, extra.s_text) == pytest.approx(
        (together[1].s_p, together[1].s_n, together[1].s_text), abs=off, rel=0
    )


def test_fields_that_are_as_before_are_not_written_down() -> None:
    """Else versions stored without them would get other names."""
    written = json.loads(TINY.model_dump_json())
    assert "patch_encoder" not in written
    assert Profile.model_validate(written) == TINY
    other = TINY.model_copy(update={"patch_encoder": TINY.encoder})
    assert Profile.model_validate_json(other.model_dump_json()) == other
    assert "patch_encoder" in other.model_dump()
    assert Manifest.model_fields["profile"].annotation is Profile


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"levels": (2, 9)}, "patch_encoder.levels"),
        ({"source": "timm:no_such_model"}, "patch encoder"),
        ({"source": "timm:resnet18"}, "patch encoder"),
    ],
)
def test_an_encoder_that_cannot_be_used(encoder: EncoderSettings, change: dict[str, object], said: str) -> None:
    with pytest.raises(FoundationError, match=said) as refused:
        load_foundation(QUICK.model_copy(update={"patch_encoder": encoder.model_copy(update=change)}))
    assert "\n" not in str(refused.value)


def test_pickled_weights_are_never_opened(encoder: EncoderSettings, tmp_path: Path) -> None:
    source = Path(encoder.source)
    (tmp_path / "config.json").write_bytes((source / "config.json").read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(FoundationError, match=r"model\.safetensors"):
        load_foundation(
            QUICK.model_copy(update={"patch_encoder": encoder.model_copy(update={"source": str(tmp_path)})})
        )
