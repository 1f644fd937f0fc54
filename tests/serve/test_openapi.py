"""The API describes itself: validly, completely, and truly, as far as made-up requests can tell."""

import os
from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from openapi_spec_validator import validate
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from o2n.onboard import onboard
from o2n.tokens import create_token
from serve.gateway import create_app
from tests.helpers import QUICK, checks, listening
from tests.serve.conftest import Local, application

# O2N_FUZZ_CASES=1000 is the long run.
CASES = int(os.environ.get("O2N_FUZZ_CASES", "25"))

described = create_app(object(), object()).openapi()
OPERATIONS = [
    pytest.param(path, method, operation, id=f"{method} {path}")
    for path, operations in described["paths"].items()
    for method, operation in operations.items()
]


def test_the_description_is_valid(local: Local) -> None:
    found = local.client.get("/openapi.json").json()
    validate(found)
    assert found == described


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS)
def test_every_operation_is_described_with_examples(path: str, method: str, operation: dict) -> None:
    def has_example(media: dict) -> bool:
        schema = media.get("schema", {})
        schema = schema.get("items", schema)
        named = described["components"]["schemas"].get(schema.get("$ref", "").rpartition("/")[2], {})
        return bool("example" in media or "examples" in media or "examples" in named or "examples" in schema)

    assert operation["description"]
    for status, answer in operation["responses"].items():
        for media in answer["content"].values():
            assert has_example(media), (status, media)
    for kind, media in operation.get("requestBody", {}).get("content", {}).items():
        assert kind != "application/json" or has_example(media)
    if path not in ("/healthz", "/readyz"):
        assert operation["security"]
        assert {"401", "403", "503"} <= set(operation["responses"])


@pytest.fixture(scope="module")
def url(local: Local) -> Iterator[str]:
    """Where the application listens, with a category `fuzzed` to do anything to."""
    onboard("fuzzed", [checks(0), checks(1)], QUICK, local.store)
    with listening(application(local.store)) as found:
        yield found
    local.store.delete("fuzzed")


@pytest.fixture(scope="module")
def everything(local: Local) -> dict[str, str]:
    token = create_token(local.store, "fuzz", ["score", "feedback", "admin"])
    return {"Authorization": f"Bearer {token}"}


@schemathesis.openapi.from_dict(described).exclude(path="/metrics").parametrize()  # they are Ray's
@settings(max_examples=CASES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_made_up_requests_are_answered_as_described(
    case: schemathesis.Case, url: str, everything: dict[str, str]
) -> None:
    # Made-up names are hardly ever those of a category.
    if len(case.path_parameters.get("name", "")) % 2:
        case.path_parameters["name"] = "fuzzed"
    answer = case.call(base_url=url, headers=everything)
    assert answer.status_code < 500 or answer.status_code == 503, answer.text
    case.validate_response(
        answer, checks=[status_code_conformance, content_type_conformance, response_schema_conformance]
    )
