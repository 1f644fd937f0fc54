"""Where the pictures of categories lie: folders here or on S3, trees of them, and manifests that list them.

A place is a folder's path or `s3://bucket/prefix`. Relative paths stay relative: a job's working directory is unpacked
anew on every node.
"""

import csv
import functools
import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from o2n import images
from o2n.category import CategoryName
from o2n.errors import CategoryError, FoundationError, StoreError
from o2n.objects import s3_client
from o2n.profiles import Profile, get_profile
from o2n.settings import get_settings

_S3_PLACE = re.compile(r"s3://([^/]+)/?(.*)")


@dataclass(frozen=True)
class Source:
    """A category to onboard: its name, the places of its pictures, what prompts call it, and its profile."""

    name: str
    references: str
    profile: Profile
    object_word: str | None = None
    more_normal: str | None = None

    @property
    def word(self) -> str:
        return class_word(self.name, self.object_word)


def class_word(name: str, object_word: str | None) -> str:
    """What prompts call the part: `object_word`, or the category's name, its signs turned into spaces."""
    return object_word or name.replace("-", " ").replace("_", " ").lower()


def find_pictures(place: str) -> list[str] | None:
    """The files directly in `place` with the suffix of a picture, hidden ones left out, sorted; None: no such place.

    Raises:
        PictureError: a folder that cannot be listed.
        StoreError: S3 that refuses or cannot be reached.
    """
    if not place.startswith("s3://"):
        return [str(path) for path in images.find(Path(place))] if Path(place).is_dir() else None
    files, folders = _list_s3(place)
    if not files and not folders:
        return None
    return [f for f in files if f.lower().endswith(images.SUFFIXES) and not f.rpartition("/")[2].startswith(".")]


def find_good_pictures(place: str) -> list[str] | None:
    """The same of `place`/train/good (the layout of MVTec AD) where that has any, else of `place` itself."""
    return find_pictures(f"{place.rstrip('/')}/train/good") or find_pictures(place)


def read_picture(file: str) -> images.Picture:
    """Decode and check the picture at a path or `s3://bucket/key`.

    Raises:
        PictureError: it cannot be read or decoded, or is refused.
        StoreError: S3 that refuses or cannot be reached.
    """
    if not file.startswith("s3://"):
        return images.read(Path(file))
    return images.decode(_read_s3(file, images.MAX_BYTES + 1), file)


def tree(place: str, profile: Profile) -> list[Source]:
    """Every folder directly in `place` as a category of its name.

    Raises:
        CategoryError: no such place, or no folders in it.
        StoreError: S3 that refuses or cannot be reached.
    """
    if place.startswith("s3://"):
        folders = _list_s3(place)[1]
    elif Path(place).is_dir():
        folders = [str(path) for path in Path(place).iterdir() if path.is_dir()]
    else:
        raise CategoryError(f"tree {place}: no such folder; give one that has a folder for each category")
    named = {os.path.basename(folder): folder for folder in folders}  # noqa: PTH119 - an s3:// URL is no Path
    found = [Source(name, named[name], profile) for name in sorted(named) if not name.startswith(".")]
    if not found:
        raise CategoryError(f"tree {place} has no folders: give one that has a folder for each category")
    return found


class _Entry(BaseModel):
    """One category of a manifest."""

    model_config = ConfigDict(extra="forbid")

    name: CategoryName
    references: str = Field(min_length=1)
    object: str | None = Field(None, min_length=1, max_length=64)
    more_normal: str | None = Field(None, min_length=1)
    profile: str | None = Field(None, min_length=1)


@dataclass(frozen=True)
class _Line:
    """What a manifest says of one category, and where: the line it begins at, and that of each field."""

    number: int
    values: Any
    fields: dict[str, int]


def manifest(file: str, profile: Profile) -> list[Source]:
    """The categories that a manifest lists: a YAML list of mappings, or CSV with a header.

    Fields are name and references, and if wanted object, more_normal and profile; relative paths start at the
    manifest's folder.

    Args: file: path or s3:// URL ending in .yaml, .yml or .csv; profile: of categories that name none.

    Raises:
        CategoryError: a manifest that cannot be read or has a mistake; the message names file and line.
        StoreError: S3 that refuses or cannot be reached.
    """
    parse = _PARSERS.get(os.path.splitext(file)[1].lower())  # noqa: PTH122
    if parse is None:
        raise CategoryError(f"manifest {file}: is neither .yaml nor .csv: give one of these")
    try:
        data = _read_s3(file) if file.startswith("s3://") else Path(file).read_bytes()
        lines = list(parse(data.decode("utf-8-sig")))
    except OSError as error:
        raise CategoryError(f"manifest {file}: cannot be read ({error.strerror}): check the path") from None
    except UnicodeDecodeError:
        raise CategoryError(f"manifest {file}: is no UTF-8 text: save it as UTF-8") from None
    except yaml.MarkedYAMLError as error:
        number = error.problem_mark.line + 1 if error.problem_mark else 1
        raise CategoryError(f"manifest {file}, line {number}: is no YAML: {error.problem}") from None
    except (yaml.YAMLError, csv.Error) as error:
        raise CategoryError(f"manifest {file}: cannot be read: {error}") from None
    if not lines:
        raise CategoryError(f"manifest {file}: lists no categories: give each a name and references")
    found: dict[str, tuple[int, Source]] = {}
    for line in lines:
        source = _source(file, line, profile)
        if source.name in found:
            raise CategoryError(
                f"manifest {file}, line {line.number}: category {source.name} is on line {found[source.name][0]} "
                "already: give each another name"
            )
        found[source.name] = line.number, source
    return [source for _, source in found.values()]


def _source(file: str, line: _Line, profile: Profile) -> Source:
    folder = os.path.dirname(file)  # noqa: PTH120 - it may be an s3:// URL

    def place(name: str) -> str:
        return name if name.startswith("s3://") else os.path.join(folder, name)  # noqa: PTH118

    field = ""
    try:
        entry = _Entry.model_validate(line.values)
        field = "profile"
        if entry.profile:
            own = entry.profile
            profile = get_profile(place(own) if own.endswith(".json") else own)
    except ValidationError as error:
        # A name that is misspelt is missing too, but that is not what is to be mended.
        first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
        field, cause = ".".join(map(str, first["loc"])), first["msg"]
        if first["type"] == "extra_forbidden":
            cause = f"is no field; there are {', '.join(_Entry.model_fields)}"
        elif first["type"] == "model_type":
            cause = "is no category: give it a name and references"
    except FoundationError as error:
        cause = str(error)
    else:
        more = place(entry.more_normal) if entry.more_normal else None
        return Source(entry.name, place(entry.references), profile, entry.object, more)
    number = line.fields.get(field, line.number)
    raise CategoryError(f"manifest {file}, line {number}: {field + ': ' if field else ''}{cause}") from None


def _yaml_lines(text: str) -> Iterator[_Line]:
    loader = yaml.SafeLoader(text)
    root = loader.get_single_node()
    if root is None:
        return
    if not isinstance(root, yaml.SequenceNode):
        raise yaml.MarkedYAMLError(problem="not a list of categories", problem_mark=root.start_mark)
    for node in root.value:
        keys = [key for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []
        fields = {str(key.value): key.start_mark.line + 1 for key in keys}
        yield _Line(node.start_mark.line + 1, loader.construct_object(node, deep=True), fields)


def _csv_lines(text: str) -> Iterator[_Line]:
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    header = [cell.strip() for cell in next(rows, [])]
    for row in rows:
        cells = [cell.strip() for cell in row]
        if any(cells):
            # A cell beyond the header's last belongs to no field, and is refused as such.
            names = header + [f"column {number + 1}" for number in range(len(header), len(cells))]
            yield _Line(rows.line_num, {n: cell for n, cell in zip(names, cells, strict=False) if cell}, {})


_PARSERS: dict[str, Callable[[str], Iterator[_Line]]] = {
    ".yaml": _yaml_lines,
    ".yml": _yaml_lines,
    ".csv": _csv_lines,
}


@functools.cache
def _client(endpoint: str | None) -> Any:
    return s3_client()


def _list_s3(place: str) -> tuple[list[str], list[str]]:
    """The objects and the folders directly under a prefix, as URLs without a slash at the end, sorted."""
    bucket, prefix = _split(place)
    prefix = prefix.rstrip("/") + "/" if prefix.strip("/") else ""
    files: list[str] = []
    folders: list[str] = []
    with _explained(place):
        pages = (
            _client(get_settings().s3_endpoint)
            .get_paginator("list_objects_v2")
            .paginate(Bucket=bucket, Prefix=prefix, Delimiter="/")
        )
        for page in pages:
            files += [item["Key"] for item in page.get("Contents", []) if item["Key"] != prefix]
            folders += [item["Prefix"].rstrip("/") for item in page.get("CommonPrefixes", [])]
    return [f"s3://{bucket}/{key}" for key in sorted(files)], [f"s3://{bucket}/{key}" for key in sorted(folders)]


def _read_s3(file: str, most: int | None = None) -> bytes:
    bucket, key = _split(file)
    with _explained(file):
        return bytes(_client(get_settings().s3_endpoint).get_object(Bucket=bucket, Key=key)["Body"].read(most))


def _split(place: str) -> tuple[str, str]:
    match = _S3_PLACE.fullmatch(place)
    if match is None:
        raise CategoryError(f"{place}: is no place on S3: use s3://BUCKET/PREFIX")
    return match[1], match[2]


@contextmanager
def _explained(place: str) -> Iterator[None]:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError, ValueError) as error:
        raise StoreError(
            f"{place} cannot be read ({error}): check its bucket, the AWS credentials and O2N_S3_ENDPOINT"
        ) from error
