"""The API describes itself: validly, completely, and truly, as far as made-up requests can tell."""

import os

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, settings
from openapi_spec_validator import validate

from o2n.tokens import create_token
from serve.auth import Doorkeeper
from serve.gateway import create_app
from serve.service import Service
from tests.helpers import QUICK
from tests.serve.conftest import InProcess, Local

# O2N_FUZZ_CASES=1000 is the long run.
CASES = int(os.environ.get("O2N_FUZZ_CASES", "25"))

described = create_app(object(), object()).openapi()  # type: ignore[arg-type]
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
        schema = media["schema"]
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


@pytest.fixture
def fuzzed(local: Local) -> object:
    token = create_token(local.store, f"fuzz-{os.urandom(4).hex()}", ["score", "feedback", "admin"])
    app = create_app(
        Service(QUICK, local.store, InProcess(local.store), 60.0),  # type: ignore[arg-type]
        Doorkeeper(local.store),
    )
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    schema.config.update(headers={"Authorization": f"Bearer {token}"})
    return schema


schema = schemathesis.pytest.from_fixture("fuzzed")


@schema.parametrize()
@settings(max_examples=CASES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_made_up_requests_are_answered_as_described(case: schemathesis.Case) -> None:
    answer = case.call()
    assert answer.status_code < 500 or answer.status_code == 503, answer.text
    case.validate_response(
        answer,
        checks=[
            schemathesis.checks.load_all_checks() or check
            for check in (
                schemathesis.checks.CHECKS.get_one("status_code_conformance"),
                schemathesis.checks.CHECKS.get_one("content_type_conformance"),
                schemathesis.checks.CHECKS.get_one("response_schema_conformance"),
            )
        ],
    )


def test_the_documentation_is_there(local: Local) -> None:
    client: TestClient = local.client
    assert "swagger" in client.get("/docs").text.lower()
