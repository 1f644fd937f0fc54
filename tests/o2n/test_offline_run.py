"""Runs without models and without Ray: what is planned, what is kept, and what is left of a run that was killed."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from o2n.category import Manifest, VersionRef
from o2n.collect import collect
from o2n.errors import CategoryError, NotFoundError, O2NError, PictureError
from o2n.inputs import Inputs
from o2n.objects import Objects, open_objects
from o2n.offline_plan import Request
from o2n.offline_run import SCHEMA, SHARD, Run, open_run
from o2n.store import CategoryStore
from tests.helpers import QUICK, checks, write

KILLS, PICTURES = 20, 4000


@pytest.fixture
def output(store_url: str) -> str:
    return store_url


@pytest.fixture
def store(tmp_path: Path) -> CategoryStore:
    """A store with versions that nobody could score with, but a run pins nonetheless."""
    found = CategoryStore((tmp_path / "store").as_uri())
    for name in ("checks", "stripes"):
        publish(found, name)
    return found


def publish(store: CategoryStore, category: str, word: str = "board") -> VersionRef:
    return store.publish(
        Manifest(
            category=category,
            object_word=word,
            profile=QUICK,
            foundation="none",
            blobs={},
            reference_digests=[],
            created=datetime.now(UTC),
            libraries={},
        )
    )


def request_for(store: CategoryStore, **inputs: object) -> Request:
    return Request(inputs=Inputs(**inputs), store=store.url, profile=QUICK, rate=0.05)


def folder_of(root: Path, count: int) -> str:
    root.mkdir(parents=True)
    for index in range(count):
        (root / f"{index:05}.png").touch()
    return str(root)


def scored(run: Run) -> Iterator[pa.Table]:
    """Every picture that is still to be scored, with a score that its place gives it."""
    for part in run.parts():
        for table in run.read(part):
            rows = table.drop_columns([name for name in ("bytes",) if name in table.column_names]).to_pylist()
            yield pa.Table.from_pylist([{**row, "score": float(row[SHARD])} for row in rows])


def paths(run: Run) -> list[str]:
    return [path for table in run.scores() for path in table["path"].to_pylist()]


def test_rows_are_kept_once_in_their_order_whatever_order_they_come_in(
    store: CategoryStore, output: str, tmp_path: Path
) -> None:
    folder = folder_of(tmp_path / "new", 50)
    run = open_run(output, request_for(store, folders=[folder], category="checks"), store, workers=2)
    tables = list(scored(run))
    again = [table.slice(0, 3) for table in tables]
    assert sum(run.collect([*reversed(tables), *again])) == 50
    assert paths(run) == sorted(str(path) for path in Path(folder).iterdir())
    assert run.parts() == []
    assert all(table.schema == SCHEMA for table in run.scores())


def test_rows_that_never_came_are_missed(store: CategoryStore, output: str, tmp_path: Path) -> None:
    request = request_for(store, folders=[folder_of(tmp_path / "new", 30)], category="checks")
    run = open_run(output, request, store, workers=1)
    lost, *tables = scored(run)
    with pytest.raises(O2NError, match=r"1 shards of .* have no scores"):
        list(run.collect([*tables, lost.slice(1)]))
    assert sum(run.collect(scored(run))) == lost.num_rows


def test_rows_that_were_taken_away_meanwhile_are_missed(store: CategoryStore, output: str, tmp_path: Path) -> None:
    request = request_for(store, folders=[folder_of(tmp_path / "new", 30)], category="checks")
    run = open_run(output, request, store, workers=1)
    keeping = run.collect(scored(run))
    for _ in run.parts():
        next(keeping)
    assert open_run(output, request, store, workers=1, overwrite=True).done() == set()
    with pytest.raises(O2NError, match=r"4 shards of .* have no scores"):
        list(keeping)


def test_a_run_goes_on_with_the_versions_and_the_pictures_it_began_with(
    store: CategoryStore, output: str, tmp_path: Path
) -> None:
    first = publish(store, "board")
    folder = folder_of(tmp_path / "new", 20)
    request = request_for(store, folders=[folder], category="board")
    run = open_run(output, request, store, workers=1)
    next(run.collect(scored(run)))
    second = publish(store, "board", "another")
    assert store.current("board") == second != first
    (Path(folder) / "later.png").touch()
    resumed = open_run(output, request, store, workers=4)
    assert resumed.refs == {"board": first}
    assert 0 < sum(resumed.collect(scored(resumed))) < 20
    assert len(paths(resumed)) == 20
    afresh = open_run(output, request, store, workers=1, overwrite=True)
    assert afresh.refs == {"board": second}
    assert afresh.done() == set()
    assert afresh.plan.pictures == 21


def test_a_run_that_lives_on_while_another_takes_its_output_adds_nothing_to_it(
    store: CategoryStore, output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_for(store, folders=[folder_of(tmp_path / "new", 40)], category="checks")
    old = open_run(output, request, store, workers=1)
    keeping = old.collect(list(scored(old)))
    next(keeping)
    objects = open_objects(output)
    put_if = type(objects).put_if

    def put_if_later(self: Objects, key: str, data: bytes, etag: str | None) -> None:
        objects.put(old.plan.key(2), b"written when all was cleared, and before the plan was another's")
        put_if(self, key, data, etag)

    monkeypatch.setattr(type(objects), "put_if", put_if_later)
    new = open_run(output, request, store, workers=1, overwrite=True)
    assert new.done() == set()
    with pytest.raises(O2NError, match="taken by another run, with --overwrite"):
        list(keeping)
    assert objects.keys("part-") == []
    with pytest.raises(O2NError, match="taken by another run, with --overwrite"):
        old.check(store)
    assert sum(new.collect(scored(new))) == 40
    assert len(objects.keys("part-")) == len(new.plan.shards())
    assert len(objects.keys("_run/")) == 2


def test_a_run_whose_version_was_collected_does_not_go_on(store: CategoryStore, output: str, tmp_path: Path) -> None:
    first = publish(store, "board")
    request = request_for(store, folders=[folder_of(tmp_path / "new", 20)], category="board")
    run, done = (open_run(f"{output}/{name}", request, store, workers=1) for name in ("begun", "done"))
    next(run.collect(scored(run)))
    list(done.collect(scored(done)))
    publish(store, "board", "another")
    collect(store, timedelta(days=7), keep=0, now=datetime.now(UTC) + timedelta(days=8))
    with pytest.raises(NotFoundError, match=f"version {first.version} of category board, which was collected since"):
        open_run(run.output, request, store, workers=1)
    assert open_run(done.output, request, store, workers=1).parts() == []
    assert open_run(run.output, request, store, workers=1, overwrite=True).refs == {"board": store.current("board")}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"rate": 0.1}, "rate"),
        ({"inputs": Inputs(folders=("elsewhere",), category="checks")}, "inputs"),
        ({"profile": QUICK.model_copy(update={"t": 0.5}), "maps": "maps"}, "profile, maps"),
    ],
)
def test_the_folder_of_another_run_is_refused_and_left_alone(
    store: CategoryStore, output: str, tmp_path: Path, change: dict, named: str
) -> None:
    request = request_for(store, folders=[folder_of(tmp_path / "new", 9)], category="checks")
    run = open_run(output, request, store, workers=1)
    list(run.collect(scored(run)))
    with pytest.raises(O2NError, match=f"another run, with other {named}: give another --output"):
        open_run(output, request.model_copy(update=change), store, workers=1)
    assert len(paths(run)) == 9


def test_files_of_nobodys_run_are_never_deleted(store: CategoryStore, output: str, tmp_path: Path) -> None:
    request = request_for(store, folders=[folder_of(tmp_path / "new", 9)], category="checks")
    open_objects(output).put("part-000000.parquet", b"precious")
    with pytest.raises(O2NError, match=r"holds part-000000.parquet, which is no run's"):
        open_run(output, request, store, workers=1, overwrite=True)
    assert open_objects(output).get("part-000000.parquet")[0] == b"precious"


@pytest.mark.parametrize("name", ["part-000001-copy.parquet", "part-abc.parquet", "part-000009.parquet"])
def test_a_run_goes_on_beside_files_that_are_not_its_own_and_leaves_them(
    store: CategoryStore, output: str, tmp_path: Path, name: str
) -> None:
    request = request_for(store, folders=[folder_of(tmp_path / "new", 9)], category="checks")
    run = open_run(output, request, store, workers=1)
    open_objects(output).put(name, b"precious")
    assert run.done() == set()
    assert sum(run.collect(scored(run))) == 9
    assert len(paths(open_run(output, request, store, workers=1))) == 9
    with pytest.raises(O2NError, match=re.escape(f"holds {name}, which is no run's")):
        open_run(output, request, store, workers=1, overwrite=True)
    assert open_objects(output).get(name)[0] == b"precious"


def test_nothing_begins_without_pictures_or_with_an_unknown_category(
    store: CategoryStore, output: str, tmp_path: Path
) -> None:
    empty = folder_of(tmp_path / "empty", 0)
    with pytest.raises(PictureError, match="no pictures in"):
        open_run(output, request_for(store, folders=[empty], category="checks"), store, workers=1)
    folder = folder_of(tmp_path / "new", 1)
    with pytest.raises(NotFoundError, match="nuts"):
        open_run(output, request_for(store, folders=[folder], category="nuts"), store, workers=1)
    assert open_objects(output).keys("") == []


def test_a_run_of_which_every_row_would_be_an_error_does_not_begin(
    store: CategoryStore, output: str, tmp_path: Path
) -> None:
    write(tmp_path / "in", [checks(0)])
    wanted = request_for(store, folders=(str(tmp_path / "in"),), category="checks")
    other = wanted.model_copy(update={"profile": QUICK.model_copy(update={"name": "other", "t": 0.5})})
    with pytest.raises(CategoryError, match="checks was with 'quick', which differs by t; give its --profile"):
        open_run(output, other, store, 1)
    assert open_run(output, wanted, store, 1).plan.pictures == 1


def test_rows_of_parquet_with_bytes_are_read_where_they_lie(store: CategoryStore, output: str, tmp_path: Path) -> None:
    picture = (write(tmp_path / "one", [checks(0)]) / "000.png").read_bytes()
    names = [None, *(f"picture {index}" for index in range(1, 100))]
    kinds = ["checks", "stripes", None, "checks"] * 25
    table = pa.table({"kind": kinds, "bytes": [picture] * 100, "path": pa.array(names, pa.string())})
    (tmp_path / "new").mkdir()
    pq.write_table(table.slice(0, 60), tmp_path / "new" / "a.parquet", row_group_size=25)
    pq.write_table(table.slice(60), tmp_path / "new" / "b.parquet")
    request = request_for(store, parquet=str(tmp_path / "new"), category_column="kind")
    run = open_run(output, request, store, workers=1)
    assert set(run.refs) == {"checks", "stripes"}
    tables = [table for part in run.parts() for table in run.read(part)]
    assert [data for table in tables for data in table["bytes"].to_pylist()] == [picture] * 100
    list(run.collect(list(scored(run))[1:4] * 2 + list(scored(run))))
    assert paths(run) == [f"{tmp_path}/new/a.parquet#0", *names[1:]]
    assert [name for table in run.scores() for name in table["category"].to_pylist()] == kinds

    pq.write_table(table.drop_columns(["bytes"]).slice(0, 5), tmp_path / "new" / "0.parquet")
    with pytest.raises(PictureError, match=r"0.parquet: has no column 'bytes', as .*a.parquet has"):
        open_run(output, request, store, workers=1, overwrite=True)
    pq.write_table(table.slice(0, 59), tmp_path / "new" / "a.parquet")
    open_objects(output).delete(run.plan.key(0))
    with pytest.raises(PictureError, match="has changed since the run began"):
        list(scored(run))


@pytest.mark.parametrize("held", ["bytes", "path"])
def test_columns_that_are_kept_come_back_as_they_were(
    store: CategoryStore, output: str, tmp_path: Path, held: str
) -> None:
    serial = pa.array([None, *range(1, 40)], pa.int16())
    taken = pa.array([datetime(2026, 11, 29, 6, minute, tzinfo=UTC) for minute in range(40)], pa.timestamp("us", "UTC"))
    line = pa.array(["a", "b"] * 20).dictionary_encode()
    boxes = pa.array([[index, index + 1] for index in range(40)], pa.list_(pa.int32()))
    pictures = [f"/{index}.png" for index in range(40)] if held == "path" else [b"picture"] * 40
    table = pa.table({"serial": serial, held: pictures, "taken": taken, "line": line, "boxes": boxes, "other": serial})
    (tmp_path / "new").mkdir()
    pq.write_table(table.slice(0, 15), tmp_path / "new" / "a.parquet")
    pq.write_table(table.slice(15), tmp_path / "new" / "b.parquet")
    names = ("line", "serial", "taken", "boxes")
    request = request_for(store, parquet=str(tmp_path / "new"), category="checks", kept=names)
    run = open_run(output, request, store, workers=1)
    list(run.collect(list(scored(run))[::-1]))
    found = pa.concat_tables(run.scores())
    assert found.schema.names == [*SCHEMA.names, *names]
    for name in names:
        assert found.schema.field(name).type == table.schema.field(name).type
        assert found[name].to_pylist() == table[name].to_pylist()
    assert found["score"].null_count == 0

    other = table.slice(15).set_column(0, "serial", table["serial"].slice(15).cast(pa.string()))
    pq.write_table(other, tmp_path / "new" / "b.parquet")
    with pytest.raises(PictureError, match=r"b.parquet: column serial holds string, in .*a.parquet int16: keep"):
        open_run(output, request, store, workers=1, overwrite=True)
    assert pa.concat_tables(run.scores()).equals(found)


# One process forks twenty that go on with one run, and die in it: where a shard is about to be written, is on its way
# to its name, or has just got it; or anywhere. Every row that is scored is noted.
KILLED = """
import os, random, signal, sys, threading
from pathlib import Path
from botocore.httpsession import URLLib3Session
from o2n import objects, offline_run as runs
from tests.o2n.test_offline_run import scored

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def live(output, kill):
    run = runs.Run(output, runs._plan(objects.open_objects(output))[0])
    kind = type(objects.open_objects(output))
    put, left = kind.put, random.Random(kill).randint(1, 15)

    def put_or_die(self, key, data):
        nonlocal left
        left -= 1
        if left == 0 and moment == "before":
            die()
        if left == 0 and moment == "in the middle":
            Path.replace = URLLib3Session.send = die
        put(self, key, data)
        if left == 0 and moment == "after":
            die()

    moment = ("before", "in the middle", "after", "anywhere")[kill % 4]
    if moment == "anywhere":
        threading.Timer(random.Random(kill).uniform(0.02, 0.2), die).start()
    kind.put = put_or_die
    tables = noted(scored(run))
    for kept in run.collect(tables):
        pass

def noted(tables):
    log = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    held = []
    for table in tables:
        os.write(log, "".join(f"{path}\\n" for path in table["path"].to_pylist()).encode())
        held.append(table)
        if len(held) == 2:  # as two workers would: the later one first
            yield from reversed(held)
            held.clear()
    yield from held

for kill in range(int(sys.argv[3])):
    if os.fork() == 0:
        live(sys.argv[1], kill)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.wait()[1]))
"""


def test_twenty_kills_lose_nothing_double_nothing_and_cost_little(
    store: CategoryStore, output: str, tmp_path: Path
) -> None:
    request = request_for(store, folders=[folder_of(tmp_path / "new", PICTURES)], category="checks")
    run = open_run(output, request, store, workers=2)
    log = tmp_path / "log"
    command = [sys.executable, "-c", KILLED, run.output, str(log), str(KILLS)]
    ended = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": "."})
    assert ended.stdout.split() == ["-9"] * KILLS
    kept = sum(run.plan.shards()[shard] for shard in run.done())
    assert 500 < kept < PICTURES
    assert kept < log.read_text().count("\n") <= kept + 0.05 * PICTURES
    assert sum(run.collect(scored(run))) == PICTURES - kept
    assert paths(run) == sorted(str(path) for path in (tmp_path / "new").iterdir())
