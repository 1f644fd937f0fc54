"""Names, references to blobs, and the version a manifest's content gives it."""

from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest
from pydantic import ValidationError

from o2n.category import BlobName, BlobRef, Feedback, Manifest, check_name
from o2n.errors import CategoryError
from o2n.profiles import TINY

BLOB = BlobRef.of(b"x")
MANIFEST = Manifest(
    category="bolts",
    object_word="bolt",
    profile=TINY,
    foundation="0" * 16,
    blobs=dict.fromkeys(get_args(BlobName), BLOB),
    reference_digests=[BLOB.sha256],
    created=datetime(2026, 1, 1, tzinfo=UTC),
    libraries={"torch": "2"},
)
SAID = Feedback(verdict="normal", by="ada", at=MANIFEST.created, picture=BLOB.sha256, version="0" * 16)


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
    later = {"created": MANIFEST.created + timedelta(days=1), "libraries": {"torch": "3"}, "warnings": ["doubtful"]}
    assert MANIFEST.model_copy(update=later).version == MANIFEST.version
    for change in (
        {"category": "nuts"},
        {"object_word": "nut"},
        {"foundation": "1" * 16},
        {"profile": TINY.model_copy(update={"t": 0.31})},
        {"blobs": {**MANIFEST.blobs, "adapter": BlobRef.of(b"y")}},
        {"reference_digests": [BlobRef.of(b"y").sha256]},
        {"parent": "0" * 16},
        {"feedback": [SAID]},
    ):
        assert MANIFEST.model_copy(update=change).version != MANIFEST.version, change


def test_a_manifest_survives_json() -> None:
    fed_back = MANIFEST.model_copy(update={"parent": MANIFEST.version, "feedback": [SAID], "warnings": ["doubtful"]})
    for manifest in (MANIFEST, fed_back):
        assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest


@pytest.mark.parametrize(
    "change",
    [
        {"category": "a/b"},
        {"object_word": ""},
        {"extra": 1},
        {"reference_digests": ["x"]},
        {"parent": "x"},
        {"feedback": [SAID.model_dump() | {"by": ""}]},
        {"feedback": [SAID.model_dump() | {"verdict": "good"}]},
    ],
)
def test_a_manifest_that_is_none_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Manifest.model_validate(MANIFEST.model_dump() | change)
