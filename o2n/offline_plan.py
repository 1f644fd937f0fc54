"""What an offline run is to do, settled before it begins: which pictures, in which shards, with which versions."""

import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from o2n import inputs
from o2n.category import VersionId, VersionRef
from o2n.errors import CategoryError, IntegrityError, PictureError
from o2n.inputs import Inputs
from o2n.profiles import Profile
from o2n.store import CategoryStore

# What the names of all shards' files begin with.
PART = "part-"

# A killed run does a shard or two of each worker again, and more only where scoring is faster than keeping: with 1000
# turns of all workers, 20 kills come to some 4% of the work. Below 8 rows, a batch of the models, shards would cost
# more than they save; above 1024 nothing is left to gain.
TURNS, LEAST, MOST = 1000, 8, 1024


class Request(BaseModel):
    """What was asked for. The folder of another request's scores is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    inputs: Inputs
    store: str
    profile: Profile
    rate: float
    maps: str | None = None
    counterparts: str | None = None


class ParquetInput(BaseModel):
    """A Parquet file with pictures' bytes, and how many rows each of its row groups has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    rows: tuple[int, ...]


class Plan(BaseModel):
    """What a run does, written before it begins. id: drawn by lot, so that nobody takes an earlier run's shards for its
    own; shard: rows of one; listed: rows of the file that `listing` names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    request: Request
    versions: dict[str, VersionId]
    shard: int
    listed: int
    listing: str | None
    sources: tuple[ParquetInput, ...]

    @property
    def pictures(self) -> int:
        return self.listed + sum(sum(source.rows) for source in self.sources)

    def shards(self) -> list[int]:
        """How many rows each shard has: those of the listing, or of every row group of every source in turn."""
        groups = [self.listed, *(rows for source in self.sources for rows in source.rows)]
        return [min(self.shard, rows - start) for rows in groups for start in range(0, rows, self.shard)]

    def key(self, shard: int) -> str:
        """Where a shard's scores are kept."""
        return f"{PART}{shard:06}-{self.id}.parquet"


def make_plan(request: Request, store: CategoryStore, workers: int) -> tuple[Plan, bytes]:
    """What is to be done, and the listing, which is empty where Parquet files hold the pictures themselves.

    Args: workers: how many there will be, which sets the shards.

    Raises:
        PictureError: there is nothing to score, or what there is cannot be read.
        NotFoundError: the store does not hold a category. CategoryError: all were made with another profile.
    """
    sources, names, kept = _sources(request.inputs)
    listed = inputs.as_table(() if sources else inputs.listed(request.inputs), kept)
    names |= set(pc.unique(listed["category"]).drop_null().to_pylist())
    rows = listed.num_rows + sum(sum(source.rows) for source in sources)
    if not rows:
        raise PictureError(f"no pictures in {request.inputs}: give folders that have some")
    versions = {name: store.current(name).version for name in sorted(names)}
    _check_profile(request.profile, store, versions)
    shard = min(max(rows // (TURNS * workers), LEAST), MOST)
    listing, identity = b"" if sources else _batches(listed, shard), uuid.uuid4().hex[:12]
    plan = Plan(
        id=identity,
        request=request,
        versions=versions,
        shard=shard,
        listed=listed.num_rows,
        listing=f"_run/listing-{identity}" if listing else None,
        sources=sources,
    )
    return plan, listing


def _check_profile(profile: Profile, store: CategoryStore, versions: dict[str, VersionId]) -> None:
    """Refuse a run of which every row would be an error."""

    def differing(name: str) -> list[str]:
        with suppress(IntegrityError):  # its rows will say so
            return store.manifest(VersionRef(name, versions[name])).profile.differs_by(profile)
        return []

    with ThreadPoolExecutor(inputs.READERS) as threads:
        found = list(threads.map(differing, versions))
    if found and all(found):
        name = next(iter(versions))
        made = store.manifest(VersionRef(name, versions[name])).profile.name
        raise CategoryError(
            f"no category was made with profile {profile.name!r} as it is given here: {name} was with {made!r}, which "
            f"differs by {', '.join(found[0])}; give its --profile"
        )


def _sources(wanted: Inputs) -> tuple[tuple[ParquetInput, ...], set[str], list[pa.Field]]:
    """The Parquet files that hold pictures' bytes, and all categories in them; none if they hold paths alone. And the
    columns that are kept of either."""
    sources: list[ParquetInput] = []
    kept: dict[str, list[pa.Field]] = {}
    names = {wanted.category} if wanted.category and wanted.parquet else set()
    urls = inputs.parquet_files(wanted.parquet) if wanted.parquet else []
    for url in urls:
        with inputs.open_parquet(url) as file:
            columns = inputs.columns(file, url, wanted)
            kept[url] = inputs.kept_fields(file.schema_arrow, wanted)
            if "bytes" in columns:
                sources.append(ParquetInput(url=url, rows=rows_of(file)))
                if wanted.category_column:
                    for batch in file.iter_batches(columns=[wanted.category_column]):
                        names |= set(inputs.categories(batch, wanted).unique().drop_null().to_pylist())
    if sources and len(sources) < len(urls):
        (odd, *_) = set(urls) - {source.url for source in sources}
        raise PictureError(f"{odd}: has no column 'bytes', as {sources[0].url} has: score the two apart")
    for url, fields in kept.items():
        for field, first in zip(fields, kept[urls[0]], strict=True):
            if field.type != first.type:
                raise PictureError(
                    f"{url}: column {field.name} holds {field.type}, in {urls[0]} {first.type}: "
                    "keep columns of one kind, or score the two apart"
                )
    return tuple(sources), names, kept[urls[0]] if urls else []


def rows_of(file: pq.ParquetFile) -> tuple[int, ...]:
    """How many rows each of its row groups has."""
    return tuple(file.metadata.row_group(group).num_rows for group in range(file.num_row_groups))


def _batches(listing: pa.Table, shard: int) -> bytes:
    """An Arrow file whose batch k is shard k: any of them can be read without the others."""
    file = pa.BufferOutputStream()
    with pa.ipc.new_file(file, listing.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        for start in range(0, listing.num_rows, shard):
            writer.write_table(listing.slice(start, shard).combine_chunks())
    return file.getvalue().to_pybytes()
