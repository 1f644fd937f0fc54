"""Bytes under keys: a directory or S3, one small interface."""

import errno
import fcntl
import hashlib
import os
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Protocol, TypeVar
from urllib.parse import unquote

from o2n.errors import ConflictError, NotFoundError, StoreError
from o2n.s3 import patiently, read_s3, s3_client

# No part starts with a dot: that rules out "." and "..", and leaves dotted names to our own temporary files.
_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
_S3_URL = re.compile(r"s3://([A-Za-z0-9][A-Za-z0-9._-]{2,62})(?:/(.*))?")
_HALF_WRITTEN = re.compile(r"\.[0-9a-f]{32}\.tmp")

T = TypeVar("T")


class Entry(NamedTuple):
    """An object without its bytes. size: in bytes; modified: when it was last written, by the clock of its place."""

    key: str
    size: int
    modified: datetime


class Objects(Protocol):
    """What a store needs of the place it lives in.

    Every method raises StoreError, in one line with cause and remedy, where that place is missing, full, read-only,
    refusing or unreachable.
    """

    url: str

    def get(self, key: str) -> tuple[bytes, str]:
        """The bytes under `key` and the etag that names this content; NotFoundError if there are none."""

    def entry(self, key: str) -> Entry:
        """What is known of `key`; NotFoundError if there is nothing under it."""

    def put(self, key: str, data: bytes) -> None:
        """Store `data` under `key`, whole or, where this process is killed, not at all."""

    def put_if(self, key: str, data: bytes, etag: str | None) -> None:
        """Like `put`, if `key` still holds what `etag` names (None: holds nothing), else ConflictError.

        Bytes that are there already are no conflict: whoever wrote them, what was asked for has come true.
        """

    def entries(self, prefix: str) -> list[Entry]:
        """What is known of every key that starts with `prefix`, sorted."""

    def keys(self, prefix: str) -> list[str]:
        """Every key that starts with `prefix`, sorted."""

    def delete(self, key: str) -> None:
        """Remove `key`; one that is not there is no error."""

    def sweep(self, before: datetime) -> None:
        """Remove what writers that were killed before then left half written, where the place itself does not."""


def open_objects(url: str) -> Objects:
    """The objects at `url`: `file:///PATH`, a plain path, or `s3://BUCKET/PREFIX`. Touches nothing yet.

    Raises:
        StoreError: any other URL.
    """
    if match := _S3_URL.fullmatch(url):
        return S3Objects(match[1], (match[2] or "").strip("/"))
    if url.startswith("file:///"):
        return LocalObjects(Path(unquote(url.removeprefix("file://"), errors="surrogateescape")))
    if url and "://" not in url and not url.startswith(("file:", "s3:")):
        return LocalObjects(Path(os.path.expanduser(url)))  # noqa: PTH111 - Path's own raises for unknown users
    raise StoreError(f"store {url!r} is no store: use file:///PATH, a path, or s3://BUCKET/PREFIX")


class LocalObjects:
    """Objects as files below one directory, which the first write creates."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.normpath(root.absolute()))
        self.url = self.root.as_uri()

    def get(self, key: str) -> tuple[bytes, str]:
        with self._explained(), self._missing_told(key):
            data = self._path(key).read_bytes()
        return data, _digest(data)

    def entry(self, key: str) -> Entry:
        with self._explained(), self._missing_told(key):
            return _entry(key, self._path(key).stat())

    def put(self, key: str, data: bytes) -> None:
        with self._explained():
            path = self._path(key)
            self._make_folder(path)
            _write(path, data)

    def put_if(self, key: str, data: bytes, etag: str | None) -> None:
        with self._explained():
            path = self._path(key)
            self._make_folder(path)
            with _locked(path):
                found = _digest(path.read_bytes()) if path.exists() else None
                if found == _digest(data):
                    return
                if found != etag:
                    raise ConflictError(f"{key} in store {self.url} was changed by somebody else: try again")
                _write(path, data)

    def entries(self, prefix: str) -> list[Entry]:
        found = []
        for key in self.keys(prefix):
            with suppress(NotFoundError):  # deleted since
                found.append(self.entry(key))
        return found

    def keys(self, prefix: str) -> list[str]:
        folder = prefix.rpartition("/")[0]
        with self._explained():
            self._check_parent()
            start = self._path(folder) if folder else self.root
            found = [
                (Path(directory) / name).relative_to(self.root).as_posix()
                for directory, _, names in os.walk(start, onerror=_raise_unless_missing)
                for name in names
                if not name.startswith(".")
            ]
        return sorted(key for key in found if key.startswith(prefix))

    def delete(self, key: str) -> None:
        with self._explained():
            self._check_parent()
            self._path(key).unlink(missing_ok=True)

    def sweep(self, before: datetime) -> None:
        with self._explained():
            for directory, _, names in os.walk(self.root, onerror=_raise_unless_missing):
                for path in (Path(directory) / name for name in names if _HALF_WRITTEN.fullmatch(name)):
                    with suppress(FileNotFoundError):  # whole by now, or swept by somebody else
                        if datetime.fromtimestamp(path.stat().st_mtime, UTC) < before:
                            path.unlink()

    def _path(self, key: str) -> Path:
        return self.root / _checked(key)

    def _make_folder(self, path: Path) -> None:
        self._check_parent()
        path.parent.mkdir(parents=True, exist_ok=True)

    def _check_parent(self) -> None:
        # A missing parent is a typing error or a disk that is not mounted; creating it would hide either.
        if not self.root.parent.is_dir() and not self.root.is_relative_to(Path.home() / ".o2n"):
            raise StoreError(
                f"store {self.url} is missing: {self.root.parent} is no folder here; create or mount it, "
                "or correct --store or O2N_STORE"
            )

    @contextmanager
    def _missing_told(self, key: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, IsADirectoryError):
            self._check_parent()
            raise NotFoundError(f"{key} is not in store {self.url}") from None

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            remedy = _LOCAL_REMEDIES.get(
                error.errno or 0, "look at the disk, or use another store (--store or O2N_STORE)"
            )
            raise StoreError(f"store {self.url} cannot be used ({error.strerror}): {remedy}") from error


_LOCAL_REMEDIES = {
    errno.ENOSPC: "it is full: free some space or use another store (--store or O2N_STORE)",
    errno.EDQUOT: "your quota is used up: free some space or use another store (--store or O2N_STORE)",
    errno.EROFS: "it is read-only: remount it writable or use another store (--store or O2N_STORE)",
    errno.EACCES: "give this user the right to read and write it, or use another store (--store or O2N_STORE)",
    errno.EPERM: "give this user the right to read and write it, or use another store (--store or O2N_STORE)",
    errno.ENOTDIR: "its path leads through a file: correct --store or O2N_STORE",
    errno.EEXIST: "its path leads through a file: correct --store or O2N_STORE",
    errno.ESTALE: "it was unmounted: mount it again",
}


def _entry(key: str, found: os.stat_result) -> Entry:
    return Entry(key, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC))


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    # Until its directory is synced, a power cut may undo the rename.
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    # The lock file stays: removing it would let two processes lock two files of the same name.
    with path.with_name(f".{path.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


class S3Objects:
    """Objects in a bucket of S3 or a server that speaks its protocol, conditional writes included."""

    def __init__(self, bucket: str, prefix: str) -> None:
        if prefix:
            _checked(prefix)
        self._bucket, self._root = bucket, f"{prefix}/" if prefix else ""
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")

    def get(self, key: str) -> tuple[bytes, str]:
        with self._explained(key):
            return read_s3(self._client, self._bucket, self._key(key))

    def entry(self, key: str) -> Entry:
        # Not HeadObject: its answer has no body, so it cannot tell a missing object from a missing bucket.
        def listed(s3: Any) -> list[Entry]:
            found = s3.list_objects_v2(Bucket=self._bucket, Prefix=self._key(key), MaxKeys=1)
            return [self._entry(item) for item in found.get("Contents", []) if item["Key"] == self._key(key)]

        for entry in self._ask(key, listed):
            return entry
        raise NotFoundError(f"{key} is not in store {self.url}")

    def put(self, key: str, data: bytes) -> None:
        self._put(key, data)

    def put_if(self, key: str, data: bytes, etag: str | None) -> None:
        try:
            if etag is None:
                self._put(key, data, IfNoneMatch="*")
            else:
                self._put(key, data, IfMatch=etag)
        except (ConflictError, NotFoundError):
            # A write whose acknowledgement got lost is sent again, and then refused because of its own success.
            if not self._holds(key, data):
                raise ConflictError(f"{key} in store {self.url} was changed by somebody else: try again") from None

    def entries(self, prefix: str) -> list[Entry]:
        def listed(s3: Any) -> list[Entry]:
            pages = s3.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._root + prefix)
            return sorted(self._entry(item) for page in pages for item in page.get("Contents", []))

        return self._ask(prefix, listed)

    def keys(self, prefix: str) -> list[str]:
        return [entry.key for entry in self.entries(prefix)]

    def delete(self, key: str) -> None:
        self._ask(key, lambda s3: s3.delete_object(Bucket=self._bucket, Key=self._key(key)))

    def sweep(self, before: datetime) -> None:
        """S3 shows no object before it is whole."""

    def _put(self, key: str, data: bytes, **condition: str) -> None:
        self._ask(key, lambda s3: s3.put_object(Bucket=self._bucket, Key=self._key(key), Body=data, **condition))

    def _holds(self, key: str, data: bytes) -> bool:
        try:
            return self.get(key)[0] == data
        except NotFoundError:
            return False

    def _entry(self, item: dict[str, Any]) -> Entry:
        return Entry(item["Key"].removeprefix(self._root), int(item["Size"]), item["LastModified"])

    def _key(self, key: str) -> str:
        return self._root + _checked(key)

    @cached_property
    def _client(self) -> Any:
        return s3_client()

    def _ask(self, key: str, request: Callable[[Any], T]) -> T:
        with self._explained(key):
            return patiently(self._client, lambda: request(self._client))

    @contextmanager
    def _explained(self, key: str) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except ClientError as error:
            self._explain_answer(key, error.response)
        # The last three: a web page, a redirect.
        except (BotoCoreError, ValueError, KeyError, RecursionError) as error:
            raise StoreError(f"store {self.url} cannot be used: {error}: {_s3_remedy(error)}") from error

    def _explain_answer(self, key: str, answer: dict[str, Any]) -> NoReturn:
        code, status = answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]
        if status in (409, 412):
            raise ConflictError(f"{key} in store {self.url} was changed by somebody else: try again") from None
        if code == "NoSuchBucket":
            raise StoreError(
                f"store {self.url} is missing: there is no bucket {self._bucket}; create it, "
                "or correct --store or O2N_STORE"
            ) from None
        if code == "NoSuchKey":
            raise NotFoundError(f"{key} is not in store {self.url}") from None
        if status in (401, 403) or code in ("ExpiredToken", "InvalidToken"):
            raise StoreError(
                f"store {self.url} refuses access ({code}): check the AWS credentials and that they allow "
                "s3:ListBucket, s3:GetObject, s3:PutObject and s3:DeleteObject"
            ) from None
        message = answer["Error"].get("Message", "")
        raise StoreError(
            f"store {self.url} answered {status} {code} {message}: try again later, or check O2N_S3_ENDPOINT"
        ) from None


def _s3_remedy(error: Exception) -> str:
    from botocore import exceptions as e

    if isinstance(error, e.NoCredentialsError | e.PartialCredentialsError | e.CredentialRetrievalError):
        return "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
    if isinstance(error, e.HTTPClientError):
        return "check O2N_S3_ENDPOINT and the network"
    return "check --store or O2N_STORE, and O2N_S3_ENDPOINT"


def check_objects(objects: Objects) -> None:
    """Write, read and remove one small object.

    Raises:
        StoreError: it cannot be written, or comes back as another.
    """
    probe, written = f"probe-{uuid.uuid4().hex}", uuid.uuid4().bytes
    objects.put(probe, written)
    read, _ = objects.get(probe)
    objects.delete(probe)
    if read != written:
        raise StoreError(
            f"store {objects.url} does not give back what was written: check --store or O2N_STORE, and O2N_S3_ENDPOINT"
        )


def _checked(key: str) -> str:
    if not _KEY.fullmatch(key):
        raise StoreError(f"key {key!r} is refused: parts of letters, digits, '.', '_' and '-', none starting with '.'")
    return key


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
