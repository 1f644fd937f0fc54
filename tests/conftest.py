"""A real S3 server over HTTP, and a store in every kind of place."""

import logging
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    # S3 checks a condition and writes in one step; moto takes two, so it gets one request at a time.
    answer, turn = server._server.app, threading.Lock()

    def answer_in_turn(environ, start_response):
        with turn:
            return answer(environ, start_response)

    server._server.app = answer_in_turn
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Its endpoint, with the environment set so that O2N uses it."""
    for variable in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_MAX_ATTEMPTS"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in {
        "O2N_S3_ENDPOINT": s3_server,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(variable, value)
    return s3_server


@pytest.fixture
def bucket(s3: str) -> str:
    """A fresh, empty bucket."""
    name = f"o2n-{uuid.uuid4().hex}"
    boto3.session.Session().client("s3", endpoint_url=s3).create_bucket(Bucket=name)
    return name


@pytest.fixture(params=["file", "s3"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a store can live and nothing is yet: test it in each kind of place."""
    if request.param == "s3":
        return f"s3://{request.getfixturevalue('bucket')}/some/prefix"
    return (tmp_path / "a störe").as_uri()
