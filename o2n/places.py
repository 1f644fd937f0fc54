"""Where pictures and lists of them lie: folders here and prefixes on S3, listed and read alike.

A place is a path or `s3://bucket/prefix`. Relative paths stay relative: a job's working directory is unpacked anew on
every node. Imports no torch and no Ray: processes that list or decode have no use for either.
"""

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from o2n import images
from o2n.errors import PictureError, StoreError, cause_of
from o2n.s3 import read_s3, s3_client
from o2n.settings import get_settings

# What S3 says of one object or prefix; anything else it says of the day, the network or the credentials.
_REFUSALS = ("NoSuchKey", "NoSuchBucket", "AccessDenied", "InvalidObjectState", "InvalidBucketName", "KeyTooLongError")


def is_s3(place: str) -> bool:
    return place.startswith("s3://")


def beside(file: str, place: str) -> str:
    """`place` as seen from the folder or prefix of `file`."""
    if is_s3(place) or Path(place).is_absolute():
        return place
    return f"{file.rpartition('/')[0]}/{place}" if is_s3(file) else str(Path(file).parent / place)


def files_in(place: str) -> list[str] | None:
    """The pictures' files directly in a folder or prefix, hidden ones left out, sorted; None: no such place.

    Raises:
        PictureError: it cannot be listed. StoreError: S3 cannot be reached.
    """
    if not is_s3(place):
        with _told(place):
            return [str(path) for path in images.find(Path(place))] if Path(place).is_dir() else None
    files, folders = _entries(place)
    if not files and not folders:
        return None
    return [f"{place.rstrip('/')}/{name}" for name in sorted(files) if _is_wanted([name], images.SUFFIXES)]


def why_none(place: str) -> str:
    """Why `files_in` knows no such place, in words."""
    return "is a file, not a folder" if not is_s3(place) and Path(place).is_file() else "no such folder"


def folders_in(place: str) -> list[str]:
    """The names of the folders directly in a folder or prefix, hidden ones left out, sorted. Raises as `files_in`."""
    if is_s3(place):
        found = _entries(place)[1]
    else:
        with _told(place), os.scandir(place) as entries:
            found = [entry.name for entry in entries if entry.is_dir()]
    return sorted(name for name in found if not name.startswith("."))


def walk(place: str, suffixes: tuple[str, ...] = images.SUFFIXES) -> Iterator[str]:
    """The files at any depth with one of the suffixes, hidden ones left out, always in one order; a folder that links
    lead to several times is walked once. Raises as `files_in`."""
    if is_s3(place):
        bucket, prefix = _split(place)
        for keys, _ in _pages(place, Bucket=bucket, Prefix=prefix):
            for key in keys:
                if _is_wanted(key.removeprefix(prefix).split("/"), suffixes):
                    yield f"s3://{bucket}/{key}"
        return
    walked: set[tuple[int, int]] = set()
    with _told(place):
        for folder, folders, names in os.walk(place, onerror=_raise, followlinks=True):
            found = Path(folder).stat()
            if (found.st_dev, found.st_ino) in walked:
                folders.clear()
                continue
            walked.add((found.st_dev, found.st_ino))
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                if _is_wanted([name], suffixes):
                    yield str(Path(folder, name))


def read_bytes(file: str) -> bytes:
    """The bytes of a file or of an object on S3; of one over `images.MAX_BYTES` one byte more than that.

    Raises:
        PictureError: it is not there, or must not be read. StoreError: S3 cannot be reached.
    """
    if not is_s3(file):
        return images.read_bytes(Path(file))
    bucket, _, key = file.removeprefix("s3://").partition("/")
    _check(file, bucket and key)
    with _told_by_s3(file):
        return read_s3(_client(), bucket, key, images.MAX_BYTES + 1)[0]


def s3_attempts() -> int:
    """How often a request to S3 is made before it fails."""
    return int(_client().meta.config.retries["total_max_attempts"])


def s3_region(place: str) -> str | None:
    """Where the bucket of an s3:// URL is, as S3 tells even those who may not read it; None: it does not say.

    Raises: PictureError: it is no place on S3. StoreError: S3 cannot be reached.
    """
    from botocore.exceptions import ClientError

    bucket, _ = _split(place)
    with _told_by_s3(place):
        try:
            answer = _client().head_bucket(Bucket=bucket)
        except ClientError as error:
            answer = error.response
    region: str | None = answer["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region")
    return region


def _split(place: str) -> tuple[str, str]:
    """Bucket and prefix, which ends in a slash unless it is empty, so that "new" is not the start of "newer"."""
    bucket, _, prefix = place.removeprefix("s3://").partition("/")
    _check(place, bucket)
    return bucket, f"{prefix.strip('/')}/" if prefix.strip("/") else ""


def _check(place: str, named: str) -> None:
    if not named:
        raise PictureError(f"{place}: is no place on S3: use s3://BUCKET/PREFIX")


def _entries(place: str) -> tuple[list[str], list[str]]:
    """The names of the objects and of the folders directly under a prefix."""
    bucket, prefix = _split(place)
    files: list[str] = []
    folders: list[str] = []
    for keys, prefixes in _pages(place, Bucket=bucket, Prefix=prefix, Delimiter="/"):
        files += [key[len(prefix) :] for key in keys if key != prefix]
        folders += [one[len(prefix) : -1] for one in prefixes]
    return files, folders


def _pages(place: str, **arguments: str) -> Iterator[tuple[list[str], list[str]]]:
    """The keys and the prefixes of every page of a list."""
    with _told_by_s3(place):
        for page in _client().get_paginator("list_objects_v2").paginate(**arguments):
            keys = [item["Key"] for item in page.get("Contents", ())]
            yield keys, [item["Prefix"] for item in page.get("CommonPrefixes", ())]


def _client() -> Any:
    return _client_of(get_settings().s3_endpoint)


@functools.cache
def _client_of(endpoint: str | None) -> Any:
    """One for everything that a process reads from the same server."""
    return s3_client()


def _is_wanted(parts: list[str], suffixes: tuple[str, ...]) -> bool:
    return parts[-1].lower().endswith(suffixes) and not any(part.startswith(".") for part in parts)


def _raise(error: OSError) -> None:
    raise error


@contextmanager
def _told(folder: str) -> Iterator[None]:
    """What went wrong with a folder here, in one line."""
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        cause = getattr(error, "strerror", None) or error
        raise PictureError(f"folder {folder}: cannot be listed ({cause}): check the path") from None


@contextmanager
def _told_by_s3(place: str) -> Iterator[None]:
    """What went wrong with a place on S3, in one line."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
        return
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code")
        cause = f"S3 answers {code}"
    # An endpoint that is no URL; what is no answer of S3's, such as a web page; one that redirects.
    except (BotoCoreError, ValueError, KeyError, RecursionError) as error:
        code, cause = None, cause_of(error)
    if code in _REFUSALS:
        raise PictureError(f"{place}: cannot be read ({cause}): check the URL and what the AWS credentials allow")
    raise StoreError(
        f"{place}: cannot be read ({cause}): check AWS credentials and O2N_S3_ENDPOINT, or try again later"
    )
