"""The categories to onboard: every folder of a tree, or what a manifest lists, and the pictures of each."""

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from o2n import images, places
from o2n.category import MAX_WORD, CategoryName
from o2n.errors import CategoryError, FoundationError, first_mistake
from o2n.profiles import Profile, get_profile


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
    """What prompts call the part: `object_word`, or the category's name, its signs turned into spaces.

    Raises: CategoryError: over `MAX_WORD` characters, or no text.
    """
    word = object_word or name.replace("-", " ").replace("_", " ").lower()
    if len(word) > MAX_WORD:
        raise CategoryError(
            f"category {name}: its object word has {len(word)} characters, at most {MAX_WORD} are taken"
        )
    try:
        word.encode()
    except UnicodeEncodeError:
        raise CategoryError(f"category {name}: its object word {word!r} is no text in UTF-8") from None
    return word


def good_pictures(place: str) -> list[str] | None:
    """The pictures' files in `place`/train/good (the layout of MVTec AD) where that has any, else in `place` itself;
    None: no such place. Raises as `places.files_in`."""
    return places.files_in(f"{place.rstrip('/')}/train/good") or places.files_in(place)


def read_picture(file: str) -> images.Picture:
    """Decode and check the picture at a path or `s3://bucket/key`; raises as `images.decode` and
    `places.read_bytes`."""
    return images.decode(places.read_bytes(file), file)


def tree(place: str, profile: Profile) -> list[Source]:
    """Every folder directly in `place` as a category of its name.

    Raises:
        CategoryError: no folders in it.
        PictureError: it cannot be listed. StoreError: S3 cannot be reached.
    """
    root = place.rstrip("/")
    found = [Source(name, f"{root}/{name}", profile) for name in places.folders_in(place)]
    if not found:
        raise CategoryError(f"tree {place} has no folders: give one that has a folder for each category")
    return found


class _Entry(BaseModel):
    """One category of a manifest."""

    model_config = ConfigDict(extra="forbid")

    name: CategoryName
    references: str = Field(min_length=1)
    object: str | None = Field(None, min_length=1, max_length=MAX_WORD)
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
        PictureError: it is not there. StoreError: S3 cannot be reached.
    """
    parse = _PARSERS.get(PurePosixPath(file).suffix.lower())
    if parse is None:
        raise CategoryError(f"manifest {file}: is neither .yaml nor .csv: give one of these")
    try:
        data = places.read_bytes(file)
        if len(data) > images.MAX_BYTES:
            raise CategoryError(f"manifest {file}: is over {images.MAX_BYTES >> 20} MiB: split it")
        lines = list(parse(data.decode("utf-8-sig")))
    except UnicodeDecodeError:
        raise CategoryError(f"manifest {file}: is no UTF-8 text: save it as UTF-8") from None
    except yaml.MarkedYAMLError as error:
        number = error.problem_mark.line + 1 if error.problem_mark else 1
        raise CategoryError(f"manifest {file}, line {number}: is no YAML: {error.problem}") from None
    except RecursionError:
        raise CategoryError(f"manifest {file}: is nested too deep: list the categories") from None
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
    field = ""
    try:
        entry = _Entry.model_validate(line.values)
        field = "profile"
        if entry.profile:
            own = entry.profile
            profile = get_profile(places.beside(file, own) if own.endswith(".json") else own)
    except ValidationError as error:
        first = first_mistake(error)
        field, cause = ".".join(map(str, first["loc"])), first["msg"]
        if first["type"] == "extra_forbidden":
            cause = f"is no field; there are {', '.join(_Entry.model_fields)}"
        elif first["type"] == "model_type":
            cause = "is no category: give it a name and references"
    except FoundationError as error:
        cause = str(error)
    else:
        more = places.beside(file, entry.more_normal) if entry.more_normal else None
        return Source(entry.name, places.beside(file, entry.references), profile, entry.object, more)
    number = line.fields.get(field, line.number)
    raise CategoryError(f"manifest {file}, line {number}: {field + ': ' if field else ''}{cause}") from None


def _yaml_lines(text: str) -> Iterator[_Line]:
    loader = yaml.BaseLoader(text)  # takes all for text: a category may be called 0815, or be a date
    root = loader.get_single_node()
    if root is None:
        return
    if not isinstance(root, yaml.SequenceNode):
        raise yaml.MarkedYAMLError(problem="not a list of categories", problem_mark=root.start_mark)
    for node in root.value:
        fields: dict[str, int] = {}
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if str(key.value) in fields:
                raise yaml.MarkedYAMLError(problem=f"{key.value} is given twice", problem_mark=key.start_mark)
            fields[str(key.value)] = key.start_mark.line + 1
        values = loader.construct_object(node, deep=True)
        if isinstance(values, dict):
            values = {name: value for name, value in values.items() if value != ""}
        yield _Line(node.start_mark.line + 1, values, fields)


def _csv_lines(text: str) -> Iterator[_Line]:
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    header = [cell.strip() for cell in next(rows, [])]
    if twice := {name for name in header if header.count(name) > 1}:
        raise csv.Error(f"its header has {', '.join(sorted(twice))} twice")
    misnamed = dict.fromkeys(set(header) - set(_Entry.model_fields), rows.line_num)
    for row in rows:
        cells = [cell.strip() for cell in row]
        if any(cells):
            # A cell beyond the header's last belongs to no field, and is refused as such.
            names = header + [f"column {number + 1}" for number in range(len(header), len(cells))]
            yield _Line(rows.line_num, {n: cell for n, cell in zip(names, cells, strict=False) if cell}, misnamed)


_PARSERS: dict[str, Callable[[str], Iterator[_Line]]] = {
    ".yaml": _yaml_lines,
    ".yml": _yaml_lines,
    ".csv": _csv_lines,
}
