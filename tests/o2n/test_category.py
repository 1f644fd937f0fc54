"""Names, references to blobs, and the version a manifest's content gives it."""

from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from o2n.category import BlobRef, Manifest, check_name
from o2n.errors import CategoryError
from o2n.profiles import TINY

BLOB = BlobRef.of(b"x")
MANIFEST = Manifest(
    category="bolts",
    object_word="bolt",
    profile=TINY,
    foundation="0" * 16,
    blobs={"references": BLOB, "adapter": BLOB, "pool": BLOB, "features": BLOB, "text_features": BLOB, "scales": BLOB},
    reference_digests=[BLOB.sha256],
    created=datetime(2026, 1, 1, tzinfo=UTC),
    libraries={"torch": "2"},
)


@pytest.mark.parametrize("name", ["a", "A-1_b", "0", "x" * 64])
def test_plain_names_pass(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "a/b", "..", "a.b", "a b", "ümlaut", "-a", "_a", "a\n", "x" * 65, "x" * 300, "a\0"]
)
def test_other_names_are_refused_in_one_line(name: str) -> None:
    with pytest.raises(CategoryError, match="use 1-64 ASCII letters") as refused:
        check_name(name)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 200


def test_the_version_is_what_the_version_is() -> None:
    later = MANIFEST.model_copy(update={"created": MANIFEST.created + timedelta(days=1), "libraries": {"torch": "3"}})
    assert later.version == MANIFEST.version
    for change in (
        {"category": "nuts"},
        {"object_word": "nut"},
        {"foundation": "1" * 16},
        {"profile": TINY.model_copy(update={"t": 0.31})},
        {"blobs": {**MANIFEST.blobs, "adapter": BlobRef.of(b"y")}},
        {"reference_digests": [BlobRef.of(b"y").sha256]},
    ):
        assert MANIFEST.model_copy(update=change).version != MANIFEST.version, change


def test_a_manifest_survives_json() -> None:
    assert Manifest.model_validate_json(MANIFEST.model_dump_json()) == MANIFEST


@pytest.mark.parametrize(
    "change", [{"category": "a/b"}, {"object_word": ""}, {"extra": 1}, {"reference_digests": ["x"]}]
)
def test_a_manifest_that_is_none_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Manifest.model_validate(MANIFEST.model_dump() | change)
