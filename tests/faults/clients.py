"""Clients that send pictures over and over, and remember every answer and how long it took."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count

import httpx

from infra.local.cluster import Cluster
from infra.local.load import score_request

TIMEOUT_SECONDS = 200.0
# A refused client comes again sooner than it was told, but leaves the machine to those who are served.
PAUSE_SECONDS = 0.5


@dataclass(frozen=True)
class Sent:
    """One request and its answer; status 0: there was none."""

    category: str
    picture: int
    begun: float
    seconds: float
    status: int
    headers: httpx.Headers
    body: dict

    @property
    def score(self) -> float:
        return self.body["pictures"][0]["score"]


class Clients:
    """Closed-loop clients: `sent` grows while they are at it."""

    def __init__(self, url: str, requests: list[tuple[str, int, bytes]], clients: int) -> None:
        """Args: requests: category, number of the picture, its bytes; sent in turn, over and over."""
        self.sent: list[Sent] = []
        self._url, self._requests = url, requests
        self._stop, self._turn = threading.Event(), count()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(clients)]

    @contextmanager
    def at_work(self) -> Iterator["Clients"]:
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join(TIMEOUT_SECONDS)

    def wait_for(self, more: int, seconds: float = 120.0) -> None:
        """Until so many more were answered with 200, by requests that were sent from now on."""
        now = time.monotonic()
        while sum(sent.status == 200 and sent.begun > now for sent in list(self.sent)) < more:
            assert time.monotonic() < now + seconds, self.told()
            time.sleep(0.1)

    def told(self) -> str:
        """How many answers there were by status, and the first bad one."""
        sent = list(self.sent)
        statuses = {status: sum(s.status == status for s in sent) for status in {s.status for s in sent}}
        return f"{statuses}, {next((s.body for s in sent if s.status != 200), '')}"

    def _run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=TIMEOUT_SECONDS) as client:
            while not self._stop.is_set():
                category, picture, data = self._requests[next(self._turn) % len(self._requests)]
                path, body, headers = score_request(category, data)
                begun = time.monotonic()
                try:
                    answer = client.post(path, content=body, headers=headers)
                    status, found = answer.status_code, answer.json()
                except httpx.HTTPError as error:
                    answer, status, found = httpx.Response(0), 0, {"lost": repr(error)}
                self.sent.append(
                    Sent(category, picture, begun, time.monotonic() - begun, status, answer.headers, found)
                )
                if status in (429, 503):
                    self._stop.wait(PAUSE_SECONDS)


def replicas_of(cluster: Cluster, deployment: str) -> list[int]:
    """The processes that run replicas of a deployment."""
    return processes_of(cluster, f"ray::ServeReplica:o2n:{deployment}")


def processes_of(cluster: Cluster, title: str) -> list[int]:
    """The processes of a cluster whose title begins so."""
    found = []
    for process in cluster.processes():
        try:
            if (process.cmdline() or [""])[0].startswith(title):
                found.append(process.pid)
        except Exception:  # it ended while we looked
            continue
    return found
