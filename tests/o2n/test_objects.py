"""Bytes under keys, the same for a directory and for S3, and what is said of places that cannot be used."""

import errno
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from o2n.errors import ConflictError, NotFoundError, StoreError
from o2n.objects import Objects, check_objects, open_objects
from tests.s3_answers import breaking_off

OPERATIONS = {
    "get": lambda objects: objects.get("some/key"),
    "entry": lambda objects: objects.entry("some/key"),
    "put": lambda objects: objects.put("some/key", b"data"),
    "put_if": lambda objects: objects.put_if("some/key", b"data", None),
    "keys": lambda objects: objects.keys("some/"),
    "delete": lambda objects: objects.delete("some/key"),
    "check": check_objects,
}
WRITES = ("put", "put_if", "check")

HOSTILE_KEYS = [
    "",
    "/",
    "/abs",
    "../x",
    "..",
    ".",
    "a/../b",
    "a/..",
    "a/./b",
    "a//b",
    "a/",
    "/a",
    ".hidden",
    "a/.hidden",
    "a b",
    "a\n",
    "a\0b",
    "a\\b",
    "ünï",
    "%2e%2e/x",
    "~/x",
    "a?b",
    "a#b",
]


@pytest.fixture
def objects(store_url: str) -> Objects:
    return open_objects(store_url)


def refused(operation, objects: Objects) -> str:
    with pytest.raises(StoreError) as raised:
        operation(objects)
    message = str(raised.value)
    assert objects.url in message
    assert len(message.splitlines()) == 1
    return message


def test_what_was_put_is_got(objects):
    for key, data in {"a": b"", "b/c": b"\0\xff\r\n", "b/d.json": os.urandom(300_000)}.items():
        objects.put(key, data)
        assert objects.get(key)[0] == data
        assert objects.entry(key).size == len(data)


def test_put_replaces_and_changes_the_etag(objects):
    objects.put("a", b"one")
    first = objects.get("a")[1]
    objects.put("a", b"two")
    assert objects.get("a")[0] == b"two"
    assert objects.get("a")[1] != first
    objects.put("a", b"one")
    assert objects.get("a") == (b"one", first)


def test_what_is_not_there_is_not_found(objects):
    objects.put("a/b", b"data")
    for key in ("b", "a/c", "a/b2"):
        for look in (objects.get, objects.entry):
            with pytest.raises(NotFoundError, match=f"{key} is not in store"):
                look(key)
    with pytest.raises(NotFoundError):
        objects.get("a")


def test_a_store_that_was_never_written_is_empty(objects):
    assert objects.keys("") == []
    assert objects.keys("a/b/") == []
    objects.delete("a")
    with pytest.raises(NotFoundError):
        objects.get("a")
    with pytest.raises(NotFoundError):
        objects.entry("a")


def test_deleted_means_gone_and_twice_is_no_error(objects):
    objects.put("a/b", b"data")
    objects.put("a/c", b"data")
    objects.delete("a/b")
    objects.delete("a/b")
    assert objects.keys("") == ["a/c"]
    with pytest.raises(NotFoundError):
        objects.get("a/b")


def test_keys_are_those_with_the_prefix_sorted(objects):
    keys = ["a-b/c", "a/b.json", "a/b/c", "a/bc", "ab", "b/a/a", "b/a/b", "B/a", "0"]
    for key in keys:
        objects.put(key, b"")
    for prefix in ("", "a", "a/", "a/b", "a/b/", "a/b/c", "b/a/", "b/a/a", "c", "c/d/", "a-"):
        assert objects.keys(prefix) == sorted(key for key in keys if key.startswith(prefix)), prefix


def test_keys_of_many_pages_are_all_listed(bucket, monkeypatch):
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "3")
    objects = open_objects(f"s3://{bucket}/prefix")
    keys = [f"k/{number}" for number in range(10)]
    for key in keys:
        objects.put(key, b"")
    assert objects.keys("k/") == keys


def test_check_leaves_nothing_behind(objects):
    check_objects(objects)
    assert objects.keys("") == []


def test_stores_side_by_side_do_not_see_each_other(store_url):
    one, other = open_objects(store_url), open_objects(f"{store_url}2")
    one.put("a", b"one")
    other.put("a", b"other")
    other.put("b", b"other")
    assert one.keys("") == ["a"]
    assert one.get("a")[0] == b"one"
    one.delete("a")
    assert other.keys("") == ["a", "b"]


def test_put_if_creates_only_what_is_not_there(objects):
    objects.put_if("a/b", b"one", None)
    with pytest.raises(ConflictError, match="a/b"):
        objects.put_if("a/b", b"two", None)
    assert objects.get("a/b")[0] == b"one"


def test_put_if_replaces_only_what_the_etag_names(objects):
    objects.put("a", b"one")
    stale = objects.get("a")[1]
    objects.put_if("a", b"two", stale)
    with pytest.raises(ConflictError, match="a in store"):
        objects.put_if("a", b"three", stale)
    assert objects.get("a")[0] == b"two"
    objects.put_if("a", b"three", objects.get("a")[1])
    assert objects.get("a")[0] == b"three"


def test_put_if_does_not_bring_back_what_was_deleted(objects):
    objects.put("a", b"one")
    etag = objects.get("a")[1]
    objects.delete("a")
    with pytest.raises(ConflictError):
        objects.put_if("a", b"two", etag)
    assert objects.keys("") == []


def test_put_if_of_what_is_there_already_is_no_conflict(objects):
    objects.put("a", b"one")
    stale = objects.get("a")[1]
    objects.put("a", b"two")
    for etag in (None, stale, objects.get("a")[1]):
        objects.put_if("a", b"two", etag)
    assert objects.get("a")[0] == b"two"


def test_of_eight_racing_writers_exactly_one_wins(objects):
    for number in range(4):
        # The first two rounds create, the others replace.
        key, etag = f"race/{number}", None
        if number >= 2:
            objects.put(key, b"before")
            etag = objects.get(key)[1]
        start = threading.Barrier(8)

        def write(writer: int, key=key, etag=etag, start=start) -> bool:
            start.wait()
            try:
                objects.put_if(key, b"writer %d" % writer, etag)
            except ConflictError:
                return False
            return True

        with ThreadPoolExecutor(8) as threads:
            won = list(threads.map(write, range(8)))
        assert won.count(True) == 1
        assert objects.get(key)[0] == b"writer %d" % won.index(True)


def test_hostile_keys_are_refused_and_write_nothing(store_url, tmp_path, request):
    objects = open_objects(store_url)
    for key in HOSTILE_KEYS:
        for operation in (
            lambda key=key: objects.put(key, b"data"),
            lambda key=key: objects.put_if(key, b"data", None),
            lambda key=key: objects.get(key),
            lambda key=key: objects.entry(key),
            lambda key=key: objects.delete(key),
        ):
            with pytest.raises(StoreError, match="is refused") as raised:
                operation()
            assert len(str(raised.value).splitlines()) == 1
    assert list(tmp_path.rglob("*")) == []
    if store_url.startswith("s3:"):
        assert open_objects(f"s3://{request.getfixturevalue('bucket')}").keys("") == []


def test_no_prefix_lists_what_is_outside(store_url):
    base, _, name = store_url.rpartition("/")
    open_objects(base).put("secret", b"")
    open_objects(f"{base}/{name}2").put("secret", b"")
    objects = open_objects(store_url)
    objects.put("a", b"")
    for prefix in ("../", "..", "2/", "a/../../", "/"):
        try:
            found = objects.keys(prefix)
        except StoreError:
            continue
        assert found == [], prefix


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://x",
        "https://x/y",
        "file:relative",
        "file:/abs",
        "file://host/path",
        "s3:",
        "s3://",
        "s3:///a",
        "s3://b",
        "s3://bad bucket/x",
        "s3:bucket",
        "s3://bucket/../x",
        "s3://bucket/a//b",
        "s3://bucket/.hidden",
        "s3://bucket/a\nb",
        "gs://bucket/x",
    ],
)
def test_urls_that_are_no_store_are_refused(url):
    with pytest.raises(StoreError, match=r"refused|is no store") as raised:
        open_objects(url)
    assert len(str(raised.value).splitlines()) == 1


def test_urls_name_the_same_place_however_they_are_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "ö x").mkdir()
    spellings = [str(tmp_path / "ö x" / "s"), "ö x/s", "./ö x/../ö x/s/", "~/ö x/s", (tmp_path / "ö x" / "s").as_uri()]
    assert {open_objects(url).url for url in spellings} == {spellings[-1]}
    assert {open_objects(url).url for url in ("s3://bucket/a/b", "s3://bucket/a/b/")} == {"s3://bucket/a/b"}
    assert {open_objects(url).url for url in ("s3://bucket", "s3://bucket/")} == {"s3://bucket"}


def test_what_a_killed_writer_left_is_swept_once_it_is_old(tmp_path):
    objects = open_objects(str(tmp_path / "store"))
    code = "import sys, os\nfrom o2n import objects\nos.fsync = lambda _: os.kill(os.getpid(), 9)\n"
    code += f"objects.open_objects({str(tmp_path / 'store')!r}).put('blobs/one', b'half')"
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    objects.put("blobs/two", b"whole")
    assert objects.keys("") == ["blobs/two"]
    now = datetime.now(UTC)
    for before, left in ((now - timedelta(hours=1), 2), (now + timedelta(hours=1), 1)):
        objects.sweep(before)
        assert len(list((tmp_path / "store" / "blobs").iterdir())) == left
    assert objects.get("blobs/two")[0] == b"whole"


def test_opening_touches_nothing(tmp_path):
    open_objects(str(tmp_path / "store"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_store_whose_parent_is_missing_is_told_not_created(operation, tmp_path):
    message = refused(OPERATIONS[operation], open_objects(str(tmp_path / "not mounted" / "store")))
    assert f"{tmp_path / 'not mounted'} is no folder here; create or mount it" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_store_that_is_a_file_is_told(operation, tmp_path):
    (tmp_path / "file").write_bytes(b"mine")
    message = refused(OPERATIONS[operation], open_objects(str(tmp_path / "file")))
    assert "its path leads through a file: correct --store or O2N_STORE" in message
    assert (tmp_path / "file").read_bytes() == b"mine"


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_store_below_a_file_is_told(operation, tmp_path):
    (tmp_path / "file").write_bytes(b"mine")
    assert "O2N_STORE" in refused(OPERATIONS[operation], open_objects(str(tmp_path / "file" / "store")))


@pytest.fixture
def disk(tmp_path):
    """A small disk of its own, and how to make it read-only; None where this user may not mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount, "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder]
    if not mount or subprocess.run(command, capture_output=True).returncode:
        yield None
        return
    yield folder
    subprocess.run(["umount", folder], check=True)


def fail_at(monkeypatch, call: str, number: int) -> None:
    """Let one of the lowest-level calls of a write answer as a kernel with that error would."""

    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(call, fail)


def test_a_full_disk_is_told_and_what_is_there_stays(disk, tmp_path, monkeypatch):
    objects = open_objects(str((disk or tmp_path) / "store"))
    objects.put("some/key", b"old")
    if disk is None:
        fail_at(monkeypatch, "o2n.objects.os.fsync", errno.ENOSPC)
    etag, large = objects.get("some/key")[1], bytes(1 << 20)
    for write in (
        lambda objects: objects.put("some/key", large),
        lambda objects: objects.put_if("some/key", large, etag),
        lambda objects: objects.put("new", large),
    ):
        assert "it is full: free some space or use another store (--store or O2N_STORE)" in refused(write, objects)
        assert [path.name for path in objects.root.rglob("*.tmp")] == []
    assert objects.get("some/key") == (b"old", etag)
    assert objects.keys("") == ["some/key"]
    objects.delete("some/key")
    assert objects.keys("") == []


def test_a_read_only_disk_is_told_and_can_be_read(disk, tmp_path, monkeypatch):
    objects = open_objects(str((disk or tmp_path) / "store"))
    objects.put("some/key", b"old")
    if disk is None:
        for call in ("Path.open", "Path.unlink"):
            fail_at(monkeypatch, f"o2n.objects.{call}", errno.EROFS)
        monkeypatch.setattr("o2n.objects.Path.read_bytes", lambda path: b"old")
    else:
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    for operation in (*WRITES, "delete"):
        message = refused(OPERATIONS[operation], objects)
        assert "it is read-only: remount it writable or use another store (--store or O2N_STORE)" in message
    assert objects.get("some/key")[0] == b"old"
    assert objects.entry("some/key").size == 3
    assert objects.keys("") == ["some/key"]


@pytest.mark.parametrize("call", ["Path.open", "Path.mkdir", "Path.replace", "os.fsync"])
@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "your quota is used up"),
        (errno.EROFS, "remount it writable"),
        (errno.EACCES, "give this user the right to read and write it"),
        (errno.EPERM, "give this user the right to read and write it"),
        (errno.ESTALE, "mount it again"),
        (errno.EIO, "look at the disk"),
    ],
    ids=lambda value: errno.errorcode[value] if isinstance(value, int) else "",
)
def test_whatever_a_write_fails_of_is_told_and_undone(tmp_path, monkeypatch, call, number, remedy):
    objects = open_objects(str(tmp_path / "store"))
    objects.put("some/key", b"old")
    etag = objects.get("some/key")[1]
    for write in (
        lambda objects: objects.put("some/key", b"new"),
        lambda objects: objects.put_if("some/key", b"new", etag),
        lambda objects: objects.put_if("some/other", b"new", None),
    ):
        with monkeypatch.context() as patch:
            fail_at(patch, f"o2n.objects.{call}", number)
            message = refused(write, objects)
        assert remedy in message
        assert os.strerror(number) in message
    assert objects.keys("") == ["some/key"]
    assert objects.get("some/key")[0] == b"old"
    assert list(objects.root.rglob("*.tmp")) == []


def test_a_bucket_that_does_not_exist_is_told(s3):
    objects = open_objects("s3://no-such-bucket/prefix")
    for operation in OPERATIONS.values():
        assert "there is no bucket no-such-bucket; create it, or correct --store or O2N_STORE" in refused(
            operation, objects
        )


@pytest.fixture
def nobody(s3, monkeypatch):
    with socket.socket() as taken:  # bound, so that nobody else listens there
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("O2N_S3_ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")
        yield


def test_an_endpoint_where_nobody_listens_is_told(nobody, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    objects = open_objects("s3://bucket/prefix")
    for operation in OPERATIONS.values():
        message = refused(operation, objects)
        assert "Could not connect" in message
        assert "O2N_S3_ENDPOINT" in message


def test_an_endpoint_where_nobody_listens_is_told_soon(nobody):
    start = time.monotonic()
    refused(OPERATIONS["check"], open_objects("s3://bucket/prefix"))
    assert time.monotonic() - start < 10


def test_missing_credentials_are_told(s3, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    message = refused(OPERATIONS["get"], open_objects("s3://bucket/prefix"))
    assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE" in message


def s3_error(code: str) -> bytes:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>Not\nnow</Message></Error>".encode()


@pytest.mark.parametrize(
    ("status", "code"), [(403, "AccessDenied"), (403, "InvalidAccessKeyId"), (400, "ExpiredToken")]
)
def test_a_server_that_refuses_is_told(status, code, answering):
    answering.status, answering.body = status, s3_error(code)
    objects = open_objects("s3://bucket/prefix")
    for operation in OPERATIONS.values():
        assert f"refuses access ({code}): check the AWS credentials" in refused(operation, objects)


@pytest.mark.parametrize(
    ("status", "code"), [(503, "SlowDown"), (500, "InternalError"), (502, ""), (507, "XMinioStorageFull")]
)
def test_a_server_in_trouble_is_told(status, code, answering):
    answering.status, answering.body = status, s3_error(code) if code else b"<html>Bad <br> gateway"
    objects = open_objects("s3://bucket/prefix")
    for name, operation in OPERATIONS.items():
        message = refused(operation, objects)
        assert f"answered {status} {code}" in message, name
        assert "try again later, or check O2N_S3_ENDPOINT" in message, name


def test_a_web_page_instead_of_s3_is_told(answering):
    answering.headers, answering.body = {"Content-Type": "text/html"}, b"<html><body>Welcome <br></body></html>"
    objects = open_objects("s3://bucket/prefix")
    for name in ("get", "keys", *WRITES):
        assert "O2N_S3_ENDPOINT" in refused(OPERATIONS[name], objects)


@pytest.mark.parametrize("status", [301, 307, 308])
def test_a_redirect_instead_of_s3_is_told(status, answering):
    answering.status, answering.headers = status, {"Location": "https://127.0.0.1/"}
    objects = open_objects("s3://bucket/prefix")
    for operation in OPERATIONS.values():
        assert "O2N_S3_ENDPOINT" in refused(operation, objects)


@pytest.fixture
def forgetful(way):
    """The first answer to a PUT gets lost."""
    lost = []

    def spoil(command: str, status: int, data: bytes) -> tuple[int, bytes]:
        if command == "PUT" and not lost:
            lost.append(status)
            return 0, b"lost"
        return status, data

    way.spoil = spoil
    return lost


def test_a_write_whose_answer_got_lost_is_no_conflict(bucket, forgetful):
    objects = open_objects(f"s3://{bucket}/prefix")
    objects.put_if("a", b"one", None)
    assert forgetful == [200]
    assert objects.get("a")[0] == b"one"
    forgetful.clear()
    objects.put_if("a", b"two", objects.get("a")[1])
    assert forgetful == [200]
    assert objects.get("a")[0] == b"two"


def test_a_body_that_breaks_off_is_read_again(bucket, way, monkeypatch):
    objects, data = open_objects(f"s3://{bucket}/prefix"), os.urandom(300_000)
    objects.put("a", data)
    way.spoil = breaking_off(2)
    assert objects.get("a")[0] == data
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    way.spoil = breaking_off(1)
    assert "150000 more expected" in refused(lambda objects: objects.get("a"), open_objects(f"s3://{bucket}/prefix"))


def test_three_seconds_of_trouble_end_nothing(bucket, way):
    objects = open_objects(f"s3://{bucket}/prefix")
    objects.put("a", b"data")
    over = time.monotonic() + 3
    way.spoil = lambda command, status, data: (status, data) if time.monotonic() > over else (503, b"")
    calls = [lambda: objects.get("a"), lambda: objects.put("b", b"data"), lambda: objects.keys("a")]
    with ThreadPoolExecutor(10) as threads:  # as many as would use up the attempts that a client has for all of them
        for call in [threads.submit(call) for call in calls * 3 + [lambda: objects.entry("a")]]:
            call.result()
    assert objects.keys("") == ["a", "b"]


def test_checks_at_once_are_not_in_each_others_way(store_url):
    objects = open_objects(store_url)
    with ThreadPoolExecutor(8) as threads:
        for check in [threads.submit(check_objects, objects) for _ in range(24)]:
            check.result()
    assert objects.keys("") == []


# One process that forks a writer for each store in the folder. Each dies in its only write: where a call was about to
# be made, or when the kernel has taken the first 1000 bytes.
KILLED = """
import os, resource, signal, sys
from pathlib import Path
from o2n.objects import open_objects

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

folder, moment = sys.argv[1:]
for store in sorted(Path(folder).iterdir()):
    if os.fork():
        os.wait()
        continue
    objects = open_objects(str(store))
    etag = objects.get("some/key")[1] if objects.keys("") else None
    if moment == "before the rename":
        Path.replace = die
    elif moment == "before the sync":
        os.fsync = die
    else:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    if "put_if" in store.name:
        objects.put_if("some/key", b"new" * 1000, etag)
    else:
        objects.put("some/key", b"new" * 1000)
"""


@pytest.mark.parametrize("moment", ["in the middle of the data", "before the sync", "before the rename"])
def test_a_killed_writer_leaves_what_was_there(tmp_path, moment):
    for name in ("put nothing there", "put something there", "put_if nothing there", "put_if something there"):
        (tmp_path / name).mkdir()
        if "something" in name:
            open_objects(str(tmp_path / name)).put("some/key", b"old")
    subprocess.run([sys.executable, "-c", KILLED, tmp_path, moment], check=True)
    for store in tmp_path.iterdir():
        left = list(store.rglob("*.tmp"))
        assert [path.stat().st_size for path in left] == [1000 if "middle" in moment else 3000]
        objects = open_objects(str(store))
        if "something" in store.name:
            assert objects.keys("") == ["some/key"]
            assert objects.get("some/key")[0] == b"old"
        else:
            assert objects.keys("") == []
            with pytest.raises(NotFoundError):
                objects.get("some/key")
        # Nothing that it held is in the way of the next one.
        objects.put_if("some/key", b"next", objects.get("some/key")[1] if "something" in store.name else None)
        assert objects.get("some/key")[0] == b"next"
