"""Closed-loop load on a service: so many clients, each sending its next picture once it has the answer to the last.

Plain http.client in threads: a client that costs much would be measured along with the service.
"""

import http.client
import secrets
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from urllib.parse import urlsplit

import numpy as np

from o2n.errors import O2NError

TIMEOUT_SECONDS = 300.0


class LoadError(O2NError):
    """An answer that is no score."""

    code = "load"


@dataclass(frozen=True)
class Load:
    """What a run came to: seconds of every request in the order of sending, and of the whole run."""

    seconds: list[float]
    whole: float

    @property
    def per_second(self) -> float:
        return len(self.seconds) / self.whole


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p95 and p99 in milliseconds."""
    return {f"p{p}": round(float(1000 * np.percentile(seconds, p)), 2) for p in (50, 95, 99)}


def score_request(category: str, picture: bytes) -> tuple[str, bytes, dict[str, str]]:
    """Path, body and headers of a request that scores one picture."""
    boundary = secrets.token_hex(16)
    body = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="pictures"; filename="picture.png"\r\n'
        "Content-Type: image/png\r\n\r\n"
    ).encode() + picture
    return (
        f"/v1/categories/{category}/score",
        body + f"\r\n--{boundary}--\r\n".encode(),
        {"Content-Type": f"multipart/form-data; boundary={boundary}"},
    )


def run_load(url: str, requests: Sequence[tuple[str, bytes, dict[str, str]]], clients: int) -> Load:
    """Send all `requests` as POST, `clients` at a time, each over a connection that is kept.

    Raises:
        LoadError: an answer other than 200.
    """
    where = urlsplit(url)
    seconds = [0.0] * len(requests)
    turn = count()

    def client() -> None:
        connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=TIMEOUT_SECONDS)
        try:
            while (index := next(turn)) < len(requests):
                path, body, headers = requests[index]
                begun = time.perf_counter()
                connection.request("POST", path, body, headers)
                answer = connection.getresponse()
                content = answer.read()
                seconds[index] = time.perf_counter() - begun
                if answer.status != 200:
                    raise LoadError(f"POST {path} was answered with {answer.status}: {content[:300]!r}")
        finally:
            connection.close()

    begun = time.perf_counter()
    with ThreadPoolExecutor(clients) as threads:
        for done in [threads.submit(client) for _ in range(clients)]:
            done.result()
    return Load(seconds, time.perf_counter() - begun)
