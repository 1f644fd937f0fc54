"""Profiles by name and from files."""

from pathlib import Path

import pytest

from o2n.errors import FoundationError
from o2n.profiles import PAPER, TINY, EncoderSettings, get_profile


def test_named_profiles() -> None:
    assert get_profile("tiny") is TINY
    assert get_profile("paper") is PAPER


def test_the_paper_profile_has_the_papers_settings() -> None:
    assert (PAPER.t, PAPER.prompts, PAPER.alpha, PAPER.beta, PAPER.pool.pictures) == (0.3, 3, 1.0, 0.5, 30)
    assert (PAPER.fusion, PAPER.customisation.spoilt, PAPER.pool.warps, PAPER.place_weight) == ("sum", 0.0, 0, 0.0)
    assert PAPER.encoder.levels == (6, 12, 18, 24)
    assert PAPER.encoder.resolution == 240


def test_pictures_are_kept_as_large_as_models_and_references_warrant() -> None:
    assert [TINY.resolution(side) for side in (20, 64, 127, 128, 3000)] == [64, 64, 64, 128, 128]
    assert [TINY.encoder.scales_in(side) for side in (20, 64, 127, 128, 3000)] == [1, 1, 1, 2, 2]
    assert PAPER.resolution(3000) == 512
    large = TINY.model_copy(update={"patch_encoder": TINY.encoder.model_copy(update={"resolution": 448})})
    assert [large.resolution(side) for side in (100, 500, 900)] == [64, 128, 896]
    close = PAPER.model_copy(update={"patch_encoder": PAPER.encoder.model_copy(update={"scales": 4})})
    assert [close.resolution(side) for side in (300, 600, 3000)] == [512, 512, 960]


def test_a_profile_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text(TINY.model_copy(update={"name": "mine", "t": 0.4}).model_dump_json())
    assert get_profile(str(file)).t == 0.4


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read"),
        ("{", "not a profile"),
        ("{}", "not a profile"),
        ('{"t": 3}', "not a profile"),
        (TINY.model_dump_json().replace('"pictures"', '"picures"'), "pool.picures: "),
    ],
)
def test_a_file_that_is_no_profile(tmp_path: Path, content: str | None, said: str) -> None:
    file = tmp_path / "bad.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(FoundationError, match=said) as refused:
        get_profile(str(file))
    assert str(file) in str(refused.value)


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(FoundationError, match="tiny, paper"):
        get_profile("huge")


@pytest.mark.parametrize(
    "change",
    [
        *({"t": 1.5}, {"prompts": 11}, {"prompts": -1}, {"alpha": -1}, {"unknown": 1}),
        *({"alpha": float("inf")}, {"beta": float("nan")}),
        *({"place_weight": value} for value in (-1, 101, float("inf"), float("nan"))),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(tmp_path: Path, change: dict[str, object]) -> None:
    import json

    file = tmp_path / "bad.json"
    file.write_text(json.dumps(TINY.model_dump() | change))
    with pytest.raises(FoundationError, match=next(iter(change))):
        get_profile(str(file))


def test_queries_are_redrawn_without_guidance_and_the_rest_is_drawn_with_the_diffusion_models() -> None:
    assert (PAPER.guidance, PAPER.diffusion.guidance) == (1.0, 7.5)
    assert PAPER.differs_by(PAPER.model_copy(update={"query_guidance": 2.0})) == ["query_guidance"]
    for change, differing in (
        ({"steps": 7}, []),
        ({"rank": 7}, ["customisation.rank"]),
        ({"target_modules": ("conv1",)}, ["customisation.target_modules"]),
    ):
        customised = PAPER.customisation.model_copy(update=change)
        assert PAPER.differs_by(PAPER.model_copy(update={"customisation": customised})) == differing
    as_before = PAPER.model_copy(update={"query_guidance": None})
    assert as_before.guidance == 7.5
    assert "query_guidance" not in as_before.model_dump_json()
    assert "target_modules" not in PAPER.model_dump_json()


def test_the_same_models_may_lie_elsewhere() -> None:
    """What they are is told by their weights, which a version knows (`Foundation.identity`)."""
    encoder = PAPER.encoder.model_copy(update={"source": "/models/clip"})
    diffusion = PAPER.diffusion.model_copy(
        update={"source": "/models/sd", "revision": "1234", "small_vae": "/models/vae"}
    )
    moved = PAPER.model_copy(
        update={"encoder": encoder, "diffusion": diffusion, "text_map": "/models/visa.safetensors"}
    )
    assert PAPER.differs_by(moved) == []
    other = EncoderSettings(source="timm:a", resolution=224, levels=(1,))
    moved_patches = other.model_copy(update={"source": "timm:b"})
    patches, another = (PAPER.model_copy(update={"patch_encoder": one}) for one in (other, moved_patches))
    assert patches.differs_by(another) == ["patch_encoder"]
    closer = encoder.model_copy(update={"resolution": 480})
    assert PAPER.differs_by(moved.model_copy(update={"encoder": closer, "patch_encoder": encoder})) == [
        "encoder",
        "patch_encoder",
    ]
