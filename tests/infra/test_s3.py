"""The S3 server of the local stack: one winner of every race, and nobody in without the keys."""

import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
import httpx
import pytest
from botocore.exceptions import ClientError

from infra.local.s3 import BUCKET, private_s3, s3_server


def client(environment: dict[str, str], **changes: str) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=environment["O2N_S3_ENDPOINT"],
        region_name=environment["AWS_DEFAULT_REGION"],
        aws_access_key_id=changes.get("key", environment["AWS_ACCESS_KEY_ID"]),
        aws_secret_access_key=changes.get("secret", environment["AWS_SECRET_ACCESS_KEY"]),
    )


def test_only_its_own_keys_are_let_in() -> None:
    with private_s3() as environment:
        client(environment).create_bucket(Bucket=BUCKET)
        client(environment).put_object(Bucket=BUCKET, Key="a/b", Body=b"data")
        assert client(environment).get_object(Bucket=BUCKET, Key="a/b")["Body"].read() == b"data"
        for wrong in ({"secret": "guessed"}, {"key": "somebody"}):
            for call in (
                lambda s3: s3.get_object(Bucket=BUCKET, Key="a/b"),
                lambda s3: s3.put_object(Bucket=BUCKET, Key="a/b", Body=b"other"),
                lambda s3: s3.list_objects_v2(Bucket=BUCKET),
            ):
                with pytest.raises(ClientError, match=r"Signature|InvalidAccessKeyId"):
                    call(client(environment, **wrong))
        url = environment["O2N_S3_ENDPOINT"]
        assert httpx.get(f"{url}/{BUCKET}/a/b").status_code == 403
        assert httpx.post(f"{url}/moto-api/reset", headers={"Authorization": "any"}).status_code == 403
        assert client(environment).get_object(Bucket=BUCKET, Key="a/b")["Body"].read() == b"data"
    # And the others of this process are as they were.
    with s3_server() as url:
        assert httpx.put(f"{url}/open-again").status_code == 200


def test_of_many_writers_under_one_condition_one_wins() -> None:
    with private_s3() as environment:
        s3 = client(environment)
        s3.create_bucket(Bucket=BUCKET)
        key = uuid.uuid4().hex

        def write(number: int) -> str:
            try:
                s3.put_object(Bucket=BUCKET, Key=key, Body=b"%d" % number, IfNoneMatch="*")
            except ClientError as error:
                return error.response["Error"]["Code"]
            return "written"

        with ThreadPoolExecutor(8) as threads:
            assert sorted(threads.map(write, range(16))) == ["PreconditionFailed"] * 15 + ["written"]
