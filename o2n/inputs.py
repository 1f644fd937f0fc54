"""Where the pictures of an offline run are: folders, S3 prefixes, Parquet files -> paths, bytes, decoded pictures.

Imports no torch and no Ray: the processes that decode have no use for either.
"""

import re
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import islice, repeat
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from o2n import images, places
from o2n.errors import PictureError, StoreError, cause_of
from o2n.settings import get_settings

# Waiting for S3 takes no core, so a few pictures of a batch are fetched at a time; decoded, a large one takes 200 MB.
READERS, DECODERS = 8, 2
_NO_TEXT = re.compile(r"\\udc[89a-f][0-9a-f]")
LISTED = pa.schema([("path", pa.string()), ("category", pa.string())])


class Inputs(BaseModel):
    """What is to be scored. One of folders (with a category), a tree, or Parquet (with a category or its column).

    kept: columns of the Parquet files that the scores keep.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    folders: tuple[str, ...] = ()
    tree: str | None = None
    parquet: str | None = None
    category: str | None = None
    category_column: str | None = None
    kept: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.tree or self.parquet or ", ".join(self.folders)


def walk_tree(root: str) -> Iterator[tuple[str, str]]:
    """Path and category of every picture in a folder or prefix of categories: those in NAME/test, as in MVTec AD's
    layout, or, where a category has no such folder, all below NAME. Raises as `places.walk`."""
    for name in places.folders_in(root):
        below = f"{root.rstrip('/')}/{name}"
        for path in places.walk(f"{below}/test" if "test" in places.folders_in(below) else below):
            yield path, name


def parquet_files(root: str) -> list[str]:
    """The Parquet file at `root`, or all below that folder or prefix, which may be called as a file is: many write
    tables so. Raises as `places.walk`."""
    if not root.endswith(".parquet") or Path(root).is_dir():
        return list(places.walk(root, (".parquet",)))
    below: list[str] = []
    if places.is_s3(root):
        with suppress(PictureError):  # who may read a file may not be allowed to list
            below = list(places.walk(root, (".parquet",)))
    return below or [root]


def listed(inputs: Inputs) -> Iterator[tuple[Any, ...]]:
    """Path, category and what is kept beside them of every picture, but for Parquet files that hold their bytes.

    Raises:
        PictureError: a folder, prefix or file that cannot be read, or lacks a column. StoreError: S3 is not reached.
    """
    if inputs.tree:
        yield from walk_tree(inputs.tree)
    elif inputs.parquet:
        for url in parquet_files(inputs.parquet):
            with open_parquet(url) as file:
                for batch in file.iter_batches(columns=columns(file, url, inputs)):
                    paths, kept = batch["path"].cast(pa.string()), [batch[name] for name in inputs.kept]
                    yield from zip(*(one.to_pylist() for one in (paths, categories(batch, inputs), *kept)), strict=True)
    else:
        for folder in inputs.folders:
            for path in places.walk(folder):
                yield path, inputs.category


def as_table(rows: Iterable[tuple[Any, ...]], kept: Iterable[pa.Field] = ()) -> pa.Table:
    """Rows as they come from `listed`, some 100 bytes each; kept: the columns beside path and category."""
    schema = pa.schema([*LISTED, *kept])
    rows, batches = iter(rows), []
    while part := list(islice(rows, 10_000)):
        paths, names, *others = zip(*part, strict=True)
        batches.append(pa.record_batch([list(map(_text, paths)), list(map(_text, names)), *others], schema))
    return pa.Table.from_batches(batches, schema)


def _text(name: str | None) -> str | None:
    """A name as a column takes it: bytes that are no UTF-8, as in names of old file systems, become `\\udcXX`."""
    return name and name.encode("utf-8", "backslashreplace").decode()


def columns(file: pq.ParquetFile, url: str, inputs: Inputs) -> list[str]:
    """Those of path, bytes and category that a Parquet file has, and what is kept beside them; `bytes` only if it holds
    bytes.

    Raises:
        PictureError: it has neither paths nor bytes, or not the column of categories, lists or structs in them, or
            `bytes` alone that are none; or lacks a column that is to be kept, or has several of that name.
    """
    names = file.schema_arrow.names
    column = inputs.category_column
    if column and column not in names:
        raise PictureError(f"{url}: has no column {column}, only {', '.join(names)}: name another, or one category")
    for name in inputs.kept:
        if name not in names:
            raise PictureError(f"{url}: has no column {name!r} to keep, only {', '.join(names)}: name one of these")
        if names.count(name) > 1:
            raise PictureError(
                f"{url}: has {names.count(name)} columns {name!r}, and one can be kept: rename the others"
            )
    found = [name for name in ("path", "bytes") if name in names]
    if not found:
        raise PictureError(f"{url}: has neither a column 'path' nor 'bytes', only {', '.join(names)}: rename one")
    if "bytes" in found and not _holds_bytes(kind := file.schema_arrow.field("bytes").type):
        if "path" not in found:
            raise PictureError(
                f"{url}: column bytes holds {kind}, not bytes: give those of the pictures' files, or paths"
            )
        found.remove("bytes")  # their number, as like as not
    wanted = [*found, *([column] if column and column not in found else [])]
    for name in wanted:
        kind = file.schema_arrow.field(name).type
        if pa.types.is_nested(kind):
            raise PictureError(f"{url}: column {name} holds {kind}, not one value: give it one a row")
    return [*wanted, *(name for name in inputs.kept if name not in wanted)]


def kept_fields(schema: pa.Schema, inputs: Inputs) -> list[pa.Field]:
    """The columns that are kept, as a file of that schema has them."""
    return [schema.field(name) for name in inputs.kept]


def _holds_bytes(kind: pa.DataType) -> bool:
    types = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
    held = kind.value_type if pa.types.is_dictionary(kind) else kind
    return any(is_type(held) for is_type in types)


def categories(batch: pa.RecordBatch, inputs: Inputs) -> pa.Array:
    """The category of each row of a Parquet file."""
    if inputs.category_column:
        return batch[inputs.category_column].cast(pa.string())
    return pa.array([inputs.category] * batch.num_rows, pa.string())


def decoded(table: pa.Table, sides: dict[str, int]) -> pa.Table:
    """Read and decode pictures, each brought to the size that its category's are scored at.

    Args:
        table: with `category`, and `bytes`, or `path` where a row has none: a file or an s3:// URL.
        sides: by category, pixels; of those that are not named nothing is decoded.

    Returns: the table without `bytes`, with `picture`, binary, uint8 (side, side, 3), and `error`, null where there is
        none.

    Raises:
        StoreError: S3 cannot be reached: a matter of today, not of a picture.
    """
    nothing = [None] * table.num_rows
    paths = table["path"].to_pylist() if "path" in table.column_names else nothing
    data = table["bytes"].to_pylist() if "bytes" in table.column_names else nothing
    wanted = [sides.get(name) for name in table["category"].cast(pa.string()).to_pylist()]
    decoding = threading.Semaphore(DECODERS)
    with ThreadPoolExecutor(READERS) as threads:
        found = list(threads.map(_decoded, paths, data, wanted, repeat(decoding)))
    kept = table.drop_columns([name for name in ("bytes", "picture", "error") if name in table.column_names])
    pictures, errors = zip(*found, strict=True) if found else ((), ())
    return kept.append_column("picture", pa.array(pictures, pa.binary())).append_column(
        "error", pa.array(errors, pa.string())
    )


def _decoded(
    path: str | None, data: bytes | None, side: int | None, decoding: threading.Semaphore
) -> tuple[bytes | None, str | None]:
    if side is None:
        return None, None  # what is wrong is told where it would be scored
    try:
        if data is None and path is None:
            raise PictureError("row without path and bytes: give one of them")
        if data is None and _NO_TEXT.search(path := str(path)):
            raise PictureError(f"{path}: its name is not UTF-8: rename it")
        fetched = places.read_bytes(str(path)) if data is None else data
        with decoding:
            return images.resize(images.decode(fetched, str(path or "picture")), side).tobytes(), None
    except PictureError as refused:
        return None, str(refused)


def s3_of(url: str) -> pa.fs.S3FileSystem:
    """S3 as Arrow reads it, for one bucket: as patiently as boto3 does, and, as boto3 finds out, where the bucket is.
    Raises as `places.s3_region`."""
    endpoint = get_settings().s3_endpoint
    scheme, _, host = endpoint.partition("://") if endpoint else ("https", "", None)
    return pa.fs.S3FileSystem(
        endpoint_override=host,
        scheme=scheme,
        region=None if endpoint else places.s3_region(url),
        retry_strategy=pa.fs.AwsStandardS3RetryStrategy(max_attempts=places.s3_attempts()),
    )


@contextmanager
def open_file(url: str) -> Iterator[pa.NativeFile]:
    """A local file or an s3:// URL, to be read from anywhere in it. Raises as `places.read_bytes`."""
    try:
        if places.is_s3(url):
            with s3_of(url).open_input_file(url[5:]) as file:
                yield file
        else:
            with pa.OSFile(url) as file:
                yield file
    except FileNotFoundError:
        raise PictureError(f"{url}: is not there: check the path") from None
    except pa.ArrowInvalid as error:
        raise PictureError(f"{url}: cannot be read ({cause_of(error)}): is it damaged, or no such file?") from None
    except OSError as error:
        raise StoreError(f"{url}: cannot be read ({cause_of(error)}): check its permissions, or try again") from None


@contextmanager
def open_parquet(url: str) -> Iterator[pq.ParquetFile]:
    """A Parquet file, read in pieces. Raises as `open_file`."""
    with open_file(url) as file:
        # Without buffers a column of a thousand pictures would be read whole before its first row comes out.
        yield pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)
