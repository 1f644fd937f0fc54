"""One offline run: what of its plan is done, what is still to be read, and the scores. Knows no Ray and no models.

    OUTPUT/_run/run.json             the plan, written once; a run that goes on has the versions that it began with
    OUTPUT/_run/listing-ID           path and category of every picture, but for Parquet files that hold their bytes
    OUTPUT/part-000000-ID.parquet    the scores of one shard, under the plan's own id

No row is lost and none is there twice, whenever the run is killed: the plan says which pictures a shard has, and its
file appears whole, under its own name, or not at all. What a killed run does again are the shards it had in hand.
"""

import io
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ValidationError

from o2n import inputs
from o2n.category import VersionRef
from o2n.errors import ConflictError, IntegrityError, NotFoundError, O2NError, PictureError
from o2n.objects import LocalObjects, Objects, open_objects
from o2n.offline_plan import PART, ParquetInput, Plan, Request, make_plan, rows_of
from o2n.store import CategoryStore

SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("category", pa.string()),
        ("version", pa.string()),
        ("score", pa.float64()),
        ("s_p", pa.float64()),
        ("s_n", pa.float64()),
        ("s_text", pa.float64()),
        ("p_value", pa.float64()),
        ("threshold", pa.float64()),
        ("is_anomalous", pa.bool_()),
        ("false_positive_rate", pa.float64()),
        ("anomaly_map", pa.string()),
        ("counterpart", pa.string()),
        ("error", pa.string()),
    ]
)

# Columns that name a row for as long as it is on its way: its shard, and its place there.
SHARD, PLACE = "_shard", "_place"
# What a column of somebody else's must not be called, or it would be taken for ours.
OWN_COLUMNS = frozenset([*SCHEMA.names, "bytes", "picture", SHARD, PLACE])
_PLAN = "_run/run.json"


class Part(NamedTuple):
    """What is read in one go. source: None for a batch of the listing; group: of the listing or the source; first: its
    first shard; wanted: those of its shards that are to be done."""

    source: ParquetInput | None
    group: int
    first: int
    wanted: frozenset[int]


class Run:
    """A run that has been planned; `open_run` makes one. Pickles as its folder and its plan."""

    def __init__(self, output: str, plan: Plan) -> None:
        self.output, self.plan = output, plan

    @property
    def refs(self) -> dict[str, VersionRef]:
        """For each category, the version it is scored with."""
        return {name: VersionRef(name, version) for name, version in self.plan.versions.items()}

    def done(self) -> set[int]:
        """The shards whose scores are kept."""
        kept = set(open_objects(self.output).keys(PART))
        return {shard for shard in range(len(self.plan.shards())) if self.plan.key(shard) in kept}

    def parts(self) -> list[Part]:
        """What is still to be read."""
        plan, wanted = self.plan, set(range(len(self.plan.shards()))) - self.done()
        if not plan.sources:
            return [Part(None, shard, shard, frozenset([shard])) for shard in sorted(wanted)]
        parts, first = [], 0
        for source in plan.sources:
            for group, rows in enumerate(source.rows):
                last = first + -(-rows // plan.shard)
                if here := wanted.intersection(range(first, last)):
                    parts.append(Part(source, group, first, frozenset(here)))
                first = last
        return parts

    def read(self, part: Part) -> Iterator[pa.Table]:
        """The pictures of a part, not decoded: path, category, where a source holds them bytes, what is kept beside
        them, SHARD and PLACE.

        Raises:
            PictureError, StoreError: what is to be read is gone, has changed, or cannot be reached.
        """
        if part.source is None:
            with inputs.open_file(f"{self.output}/{self.plan.listing}") as file:
                yield self._numbered(pa.Table.from_batches([pa.ipc.open_file(file).get_batch(part.group)]), part, 0)
            return
        url, place = part.source.url, 0
        before = sum(part.source.rows[: part.group])
        wanted = self.plan.request.inputs
        with inputs.open_parquet(url) as file:
            if rows_of(file) != part.source.rows:
                raise PictureError(f"{url}: has changed since the run began: begin another, with another --output")
            columns = inputs.columns(file, url, wanted)
            for batch in file.iter_batches(min(self.plan.shard, 64), row_groups=[part.group], columns=columns):
                numbers = range(before + place, before + place + batch.num_rows)
                names = pa.array([f"{url}#{number}" for number in numbers])
                if "path" in columns:
                    names = pc.coalesce(batch["path"].cast(pa.string()), names)
                found = [
                    names,
                    batch["bytes"],
                    inputs.categories(batch, wanted),
                    *(batch[name] for name in wanted.kept),
                ]
                table = pa.table(found, ["path", "bytes", "category", *wanted.kept])
                yield self._numbered(table, part, place)
                place += batch.num_rows

    def read_parts(self, numbers: pa.Table, parts: list[Part]) -> Iterator[pa.Table]:
        """`read` for Ray Data, whose rows are places in `parts`."""
        for number in numbers["part"].to_pylist():
            yield from self.read(parts[number])

    def collect(self, tables: Iterable[pa.Table]) -> Iterator[int]:
        """Keep the scores, shard by shard, as soon as all rows of one are there; for each table, the rows kept since.

        Rows may come in any order, and again.

        Raises:
            StoreError: the output cannot be written. O2NError: another run has it; rows are missing at the end.
        """
        objects, sizes, done = open_objects(self.output), self.plan.shards(), self.done()
        schema = pa.schema([*SCHEMA, *self._kept()])
        waiting: dict[int, dict[int, dict[str, Any]]] = defaultdict(dict)
        for table in tables:
            kept = 0
            for row in table.to_pylist():
                shard, place = row[SHARD], row[PLACE]
                if shard in done:
                    continue
                waiting[shard][place] = row
                if len(waiting[shard]) == sizes[shard]:
                    rows = waiting.pop(shard)
                    self._keep(objects, shard, pa.Table.from_pylist([rows[place] for place in sorted(rows)], schema))
                    done.add(shard)
                    kept += sizes[shard]
            yield kept
        # Listed anew: another run may have cleared the output since.
        if missing := len(sizes) - len(self.done()):
            raise O2NError(f"{missing} shards of {self.output} have no scores: run the same again")

    def scores(self) -> Iterator[pa.Table]:
        """All rows that are kept, shard by shard, in the order of the input."""
        objects = open_objects(self.output)
        with ThreadPoolExecutor(inputs.READERS) as threads:
            # In portions, so that results do not wait in memory for who reads them.
            shards = sorted(self.done())
            for start in range(0, len(shards), 64):
                for data, _ in threads.map(objects.get, map(self.plan.key, shards[start : start + 64])):
                    yield pq.read_table(io.BytesIO(data))

    def check(self, store: CategoryStore) -> None:
        """See that the run can go on.

        Raises:
            O2NError: another run has its output by now. NotFoundError: a version that it began with was collected.
        """
        if not self._is_own(open_objects(self.output)):
            raise self._taken()
        refs = list(self.refs.values())
        with ThreadPoolExecutor(inputs.READERS) as threads:
            gone = list(threads.map(lambda ref: is_gone(store, ref), refs))
        if any(gone):
            ref = refs[gone.index(True)]
            raise NotFoundError(
                f"{self.output} was begun with version {ref.version} of category {ref.category}, which was collected "
                "since: begin another run, with another --output or --overwrite"
            )

    def _kept(self) -> list[pa.Field]:
        """The columns that are kept of the pictures' own."""
        plan, wanted = self.plan, self.plan.request.inputs
        if not wanted.kept:
            return []
        if plan.listing:
            with inputs.open_file(f"{self.output}/{plan.listing}") as file:
                return inputs.kept_fields(pa.ipc.open_file(file).schema, wanted)
        with inputs.open_parquet(plan.sources[0].url) as file:
            return inputs.kept_fields(file.schema_arrow, wanted)

    def _keep(self, objects: Objects, shard: int, rows: pa.Table) -> None:
        objects.put(self.plan.key(shard), _parquet(rows))
        if not self._is_own(objects):
            objects.delete(self.plan.key(shard))  # whoever took the output has cleared it already
            raise self._taken()

    def _is_own(self, objects: Objects) -> bool:
        plan, _ = _plan(objects)
        return plan is not None and plan.id == self.plan.id

    def _taken(self) -> O2NError:
        return O2NError(f"{self.output} was taken by another run, with --overwrite: this one ends here")

    def _numbered(self, table: pa.Table, part: Part, start: int) -> pa.Table:
        """The rows of the wanted shards, with SHARD and PLACE; `start` is the first row's place in the part."""
        place = np.arange(start, start + table.num_rows)
        shard = part.first + place // self.plan.shard
        table = table.append_column(SHARD, pa.array(shard)).append_column(PLACE, pa.array(place % self.plan.shard))
        return table.filter(pa.array(np.isin(shard, list(part.wanted))))


def open_run(output: str, request: Request, store: CategoryStore, workers: int, overwrite: bool = False) -> Run:
    """The run in `output`, if it is of this very request, or else a new one: listed, pinned, and written down.

    Args: output: a folder, which is made, or an s3:// prefix; workers: how many there will be, which sets the shards.

    Raises:
        O2NError: `output` holds another run, or files of something else. PictureError: there is nothing to score.
        NotFoundError: a category that the store does not hold, or no more in the version that the run began with.
    """
    objects = open_objects(output)
    output = objects.url
    if isinstance(objects, LocalObjects):
        output = str(objects.root)
        try:
            objects.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise O2NError(f"output {output} cannot be made ({error.strerror}): give another --output") from None
    earlier, etag = _plan(objects)
    if earlier and not overwrite:
        differs = [name for name in Request.model_fields if getattr(earlier.request, name) != getattr(request, name)]
        if differs:
            raise O2NError(
                f"{output} holds the scores of another run, with other {', '.join(differs)}: give another --output, "
                "or --overwrite to delete them"
            )
        run = Run(output, earlier)
        if run.parts():
            run.check(store)
        return run
    plan, listing = make_plan(request, store, workers)
    _check_holds_no_other(objects, output, earlier)
    _clear(objects, earlier)  # while its plan is there: a half-deleted run can go on
    if plan.listing:
        objects.put(plan.listing, listing)
    try:
        objects.put_if(_PLAN, plan.model_dump_json(indent=1).encode(), etag)
    except ConflictError:
        raise O2NError(f"{output} was taken by another run just now: run the same again") from None
    # What it has written until then, if it is alive; what it writes from now on it takes away itself.
    _clear(objects, earlier)
    if earlier and earlier.listing:
        objects.delete(earlier.listing)
    return Run(output, plan)


def is_gone(store: CategoryStore, ref: VersionRef) -> bool:
    """Whether a version was collected. One that is merely damaged was not."""
    try:
        store.manifest(ref)
    except NotFoundError:
        return True
    except IntegrityError:
        pass
    return False


def _plan(objects: Objects) -> tuple[Plan | None, str | None]:
    """The plan that an output has, and its etag."""
    try:
        data, etag = objects.get(_PLAN)
        return Plan.model_validate_json(data), etag
    except NotFoundError:
        return None, None
    except ValidationError:
        raise O2NError(
            f"{objects.url}/{_PLAN} was altered, or written by another release of O2N: give another --output"
        ) from None


def _check_holds_no_other(objects: Objects, output: str, earlier: Plan | None) -> None:
    own = _shards(earlier)
    if strange := [key for key in objects.keys("") if key.endswith(".parquet") and key not in own]:
        raise O2NError(f"{output} holds {strange[0]}, which is no run's: give an empty --output")


def _clear(objects: Objects, earlier: Plan | None) -> None:
    for key in _shards(earlier).intersection(objects.keys(PART)):
        objects.delete(key)


def _shards(plan: Plan | None) -> set[str]:
    return {plan.key(shard) for shard in range(len(plan.shards()))} if plan else set()


def _parquet(rows: pa.Table) -> bytes:
    file = pa.BufferOutputStream()
    pq.write_table(rows, file)
    return file.getvalue().to_pybytes()
