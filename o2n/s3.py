"""S3 through boto3, patiently: one client, requests made again where the server is in trouble, objects read whole."""

import random
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any, TypeVar

from o2n.settings import get_settings

# A request's attempts inside S3's client, some three seconds in all, and the seconds before each further round of them.
ATTEMPTS = 8
PAUSES = (1.0, 2.0, 4.0)

T = TypeVar("T")


def s3_client() -> Any:
    """A client of S3, or of the server of $O2N_S3_ENDPOINT, that several threads may use."""
    # Imported here because it takes 0.3 s, which users of a directory need not pay.
    import boto3
    import botocore.session
    from botocore.config import Config

    # A session of its own, because boto3's default one must not be used by several threads.
    session = botocore.session.Session()
    config = Config(
        # A number in `retries` would win over $AWS_MAX_ATTEMPTS.
        retries={
            "mode": "standard",
            "total_max_attempts": session.get_config_variable("max_attempts") or ATTEMPTS,
        },
        connect_timeout=5,
        read_timeout=60,
        # Servers other than Amazon's often refuse boto3's newer default checksums; the store has digests.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return boto3.session.Session(botocore_session=session).client(
        "s3", endpoint_url=get_settings().s3_endpoint, config=config
    )


def patiently(client: Any, request: Callable[[], T]) -> T:
    """What `request` comes to; it is made again where the server is in trouble, or its answer broke off.

    The client's own attempts end with the head of an answer, and all threads of a process share a few dozen of them.
    A server that is not there at all is told of once those are used up.
    """
    from botocore.exceptions import ClientError, HTTPClientError, IncompleteReadError

    for pause in PAUSES[: client.meta.config.retries["total_max_attempts"] - 1]:
        try:
            return request()
        except (HTTPClientError, IncompleteReadError):
            pass
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] not in (500, 502, 503, 504):
                raise
        time.sleep(random.uniform(0.5, 1) * pause)
    return request()


def read_s3(client: Any, bucket: str, key: str, most: int | None = None) -> tuple[bytes, str]:
    """The bytes of an object on S3, at most `most` of them, and its etag; raises what boto3 does."""
    from botocore.exceptions import IncompleteReadError

    def request() -> tuple[bytes, str]:
        answer = client.get_object(Bucket=bucket, Key=key)
        if "ETag" not in answer:
            raise ValueError("an answer without ETag, as no S3 server gives")
        with closing(answer["Body"]) as body:  # entered by itself it would be the bare stream, with errors of its own
            data = bytes(body.read(most))
        # Given an amount, the client takes a connection that broke for the end of the object.
        whole = answer.get("ContentLength", len(data))
        expected = whole if most is None else min(whole, most)
        if len(data) < expected:
            raise IncompleteReadError(actual_bytes=len(data), expected_bytes=expected)
        return data, answer["ETag"]

    return patiently(client, request)
