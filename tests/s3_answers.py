"""Servers in S3's way: one that has a single answer for everybody, and one that passes S3's own on, spoilt."""

import http.client
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest


class Server(ThreadingHTTPServer):
    """status, headers, body: what `Answer` answers. to: where `Forward` passes requests on to; spoil: of a command, the
    status and the body of its answer what comes back, a status and a body."""

    daemon_threads = True
    status, headers, body = 200, {}, b""
    to: str
    spoil: Callable[[str, int, bytes], tuple[int, bytes]]


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def answer(self) -> None:
        self.respond(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    do_GET = do_PUT = do_HEAD = do_DELETE = answer  # noqa: N815

    def respond(self, asked: bytes) -> None:
        self.send_response(self.server.status)
        for name, value in {**self.server.headers, "Content-Length": str(len(self.server.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(self.server.body)

    def log_message(self, *_) -> None:
        pass


class Forward(Answer):
    def respond(self, asked: bytes) -> None:
        to = urlsplit(self.server.to)
        upstream = http.client.HTTPConnection(to.hostname, to.port)
        headers = {name: value for name, value in self.headers.items() if name != "Expect"}
        upstream.request(self.command, self.path, asked, headers)
        answer = upstream.getresponse()
        data = answer.read()
        upstream.close()
        status, sent = self.server.spoil(self.command, answer.status, data)
        length = len(data if status == answer.status else sent)
        if self.command == "HEAD":
            length = answer.headers["Content-Length"]
        self.close_connection = sent != data
        if status:
            self.send_response(status)
            if "ETag" in answer.headers:
                self.send_header("ETag", answer.headers["ETag"])
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(sent)


def serving(handler: type[Answer], monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that S3's clients take for S3 until the test ends."""
    server = Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("O2N_S3_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def breaking_off(times: int) -> Callable[[str, int, bytes], tuple[int, bytes]]:
    """Connections break in the middle of the first so many bodies."""
    left = iter(range(times))

    def spoil(command: str, status: int, data: bytes) -> tuple[int, bytes]:
        breaks = command == "GET" and next(left, None) is not None
        return status, data[: len(data) // 2] if breaks else data

    return spoil
