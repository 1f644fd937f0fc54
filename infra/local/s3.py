"""An S3 server for one machine: moto's, in memory, made to check a condition and write in one step.

What it holds is gone when it stops. For one that keeps it, see infra/docker/compose.yaml.
"""

import json
import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import boto3
from moto import settings as moto_settings
from moto.server import ThreadedMotoServer

BUCKET = "o2n"
REGION = "us-east-1"


@contextmanager
def s3_server() -> Iterator[str]:
    """An S3 server on loopback that takes any credentials; its URL."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    # S3 checks a condition and writes in one step; moto takes two, so it gets one request at a time.
    answer, turn = server._server.app, Lock()

    def answer_in_turn(environ: dict[str, Any], start_response: Any) -> Any:
        with turn:
            asks_for_keys = moto_settings.INITIAL_NO_AUTH_ACTION_COUNT == 0
            if asks_for_keys and ("HTTP_AUTHORIZATION" not in environ or environ["PATH_INFO"].startswith("/moto-api")):
                start_response("403 Forbidden", [("Content-Length", "0")])
                return []
            return answer(environ, start_response)

    server._server.app = answer_in_turn
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@contextmanager
def private_s3() -> Iterator[dict[str, str]]:
    """An S3 server with one bucket, whose generated keys it asks for; the environment that lets a process use it.

    moto asks either in all servers of a process or in none: run no other beside it.
    """
    with s3_server() as url:
        anybody = {"region_name": REGION, "aws_access_key_id": "-", "aws_secret_access_key": "-"}
        iam = boto3.client("iam", endpoint_url=url, **anybody)
        user = f"o2n-{secrets.token_hex(4)}"  # all servers of a process have the same users
        iam.create_user(UserName=user)
        allowed = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
        iam.put_user_policy(UserName=user, PolicyName="s3", PolicyDocument=policy)
        keys = iam.create_access_key(UserName=user)["AccessKey"]
        before = moto_settings.INITIAL_NO_AUTH_ACTION_COUNT
        moto_settings.INITIAL_NO_AUTH_ACTION_COUNT = 0
        try:
            yield s3_environment(url, keys["AccessKeyId"], keys["SecretAccessKey"])
        finally:
            moto_settings.INITIAL_NO_AUTH_ACTION_COUNT = before


def s3_environment(url: str, access_key_id: str, secret_access_key: str) -> dict[str, str]:
    """What O2N looks for, with nothing left for boto3 to find in files or ask a cloud's metadata for."""
    return {
        "O2N_S3_ENDPOINT": url,
        "AWS_ACCESS_KEY_ID": access_key_id,
        "AWS_SECRET_ACCESS_KEY": secret_access_key,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
