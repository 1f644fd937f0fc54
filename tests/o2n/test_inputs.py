"""Folders, S3 prefixes and Parquet files -> the pictures in them."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from o2n import images, inputs, places
from o2n.errors import PictureError
from o2n.inputs import Inputs
from o2n.objects import open_objects
from tests.helpers import checks, stripes, write
from tests.s3_answers import Answer, Server, serving

PICTURE = images.encode_png(checks(0))


def test_a_tree_gives_each_picture_its_folders_category(place: tuple[str, Callable]) -> None:
    root, put = place
    for key in ("bolt/test/good/1.png", "bolt/test/bent/2.png", "bolt/train/good/3.png", "nut/4.png", "nut/x/5.png"):
        put(key, PICTURE)
    put(".cache/x.png", PICTURE)
    put("stray.png", PICTURE)
    found = {(path.removeprefix(root + "/"), category) for path, category in inputs.walk_tree(root)}
    assert found == {
        ("bolt/test/good/1.png", "bolt"),
        ("bolt/test/bent/2.png", "bolt"),
        ("nut/4.png", "nut"),
        ("nut/x/5.png", "nut"),
    }


def test_paths_in_parquet_are_listed_with_their_category(place: tuple[str, Callable]) -> None:
    root, put = place
    file = pa.BufferOutputStream()
    pq.write_table(pa.table({"kind": ["a", None], "path": ["/1.png", "/2.png"], "id": [1, 2]}), file)
    put("new.parquet", file.getvalue().to_pybytes())
    where = f"{root}/new.parquet"
    by_column = inputs.listed(Inputs(parquet=where, category_column="kind"))
    assert list(by_column) == [("/1.png", "a"), ("/2.png", None)]
    assert list(inputs.listed(Inputs(parquet=root, category="b"))) == [("/1.png", "b"), ("/2.png", "b")]
    kept = list(inputs.listed(Inputs(parquet=root, category="b", kept=("id", "kind"))))
    assert kept == [("/1.png", "b", 1, "a"), ("/2.png", "b", 2, None)]
    with pytest.raises(PictureError, match="has no column 'serial' to keep, only kind, path, id"):
        list(inputs.listed(Inputs(parquet=where, category="b", kept=("id", "serial"))))
    with pytest.raises(PictureError, match="has no column part, only kind, path, id"):
        list(inputs.listed(Inputs(parquet=where, category_column="part")))
    twice = pa.BufferOutputStream()
    pq.write_table(pa.table([["/1.png"], [1], [2]], names=["path", "id", "id"]), twice)
    put("twice.parquet", twice.getvalue().to_pybytes())
    with pytest.raises(PictureError, match=r"twice.parquet: has 2 columns 'id', and one can be kept"):
        list(inputs.listed(Inputs(parquet=f"{root}/twice.parquet", category="b", kept=("id",))))
    nested = pa.BufferOutputStream()
    pq.write_table(pa.table({"path": [["/1.png"]]}), nested)
    put("nested.parquet", nested.getvalue().to_pybytes())
    with pytest.raises(PictureError, match=r"nested.parquet: column path holds list<"):
        list(inputs.listed(Inputs(parquet=f"{root}/nested.parquet", category="b")))
    put("broken.parquet", b"PAR1 and nothing more")
    with pytest.raises(PictureError, match=r"broken.parquet: cannot be read"):
        list(inputs.listed(Inputs(parquet=f"{root}/broken.parquet", category="b")))
    with pytest.raises(PictureError, match=r"gone.parquet"):
        list(inputs.listed(Inputs(parquet=f"{root}/gone.parquet", category="b")))


def test_a_folder_that_is_called_as_a_file_is_a_folder(place: tuple[str, Callable]) -> None:
    root, put = place
    for number in (1, 2):
        file = pa.BufferOutputStream()
        pq.write_table(pa.table({"path": [f"/{number}.png"]}), file)
        put(f"new.parquet/part-{number}.parquet", file.getvalue().to_pybytes())
    for where in (root, f"{root}/new.parquet"):
        found = list(inputs.listed(Inputs(parquet=where, category="b")))
        assert found == [("/1.png", "b"), ("/2.png", "b")]


@pytest.mark.parametrize("kind", [pa.int64(), pa.string(), pa.list_(pa.uint8())])
def test_a_column_of_sizes_is_not_taken_for_the_pictures_bytes(tmp_path: Path, kind: pa.DataType) -> None:
    rows = pa.array([None, None], kind)
    file, wanted = str(tmp_path / "new.parquet"), Inputs(parquet=str(tmp_path), category="b")
    pq.write_table(pa.table({"path": ["/1.png", "/2.png"], "bytes": rows}), file)
    with inputs.open_parquet(file) as opened:
        assert inputs.columns(opened, file, wanted) == ["path"]
    assert list(inputs.listed(wanted)) == [("/1.png", "b"), ("/2.png", "b")]
    pq.write_table(pa.table({"bytes": rows}), file)
    with inputs.open_parquet(file) as opened, pytest.raises(PictureError) as raised:
        inputs.columns(opened, file, wanted)
    held = pq.read_schema(file).field("bytes").type
    message = f"{file}: column bytes holds {held}, not bytes: give those of the pictures' files, or paths"
    assert str(raised.value) == message


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary(4), pa.dictionary(pa.int32(), pa.binary())])
def test_bytes_are_taken_as_they_are_kept(tmp_path: Path, kind: pa.DataType) -> None:
    file = str(tmp_path / "new.parquet")
    pq.write_table(pa.table({"bytes": pa.array([b"1234"], pa.binary()).cast(kind)}), file)
    with inputs.open_parquet(file) as opened:
        assert inputs.columns(opened, file, Inputs(parquet=file, category="b")) == ["bytes"]
        assert opened.read(["bytes"])["bytes"].to_pylist() == [b"1234"]


def test_a_server_that_is_busy_for_a_while_ends_nothing(bucket: str, way: Server) -> None:
    """Arrow's own three attempts are over after a second or two."""
    data = os.urandom(300_000)
    open_objects(f"s3://{bucket}").put("new", data)
    busy = iter(range(3))
    way.spoil = lambda command, status, data: (status, data) if next(busy, None) is None else (503, b"")
    with inputs.open_file(f"s3://{bucket}/new") as file:
        assert file.read() == data


@pytest.fixture
def amazon(s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that boto3 takes for Amazon's own."""
    for server in serving(Answer, monkeypatch):
        monkeypatch.setenv("AWS_ENDPOINT_URL", os.environ["O2N_S3_ENDPOINT"])
        monkeypatch.delenv("O2N_S3_ENDPOINT")
        places._client_of.cache_clear()
        yield server
        places._client_of.cache_clear()


def test_a_bucket_is_read_in_the_region_where_it_is(amazon: Server) -> None:
    amazon.headers = {"x-amz-bucket-region": "eu-central-1"}
    for amazon.status in (200, 403):
        assert inputs.s3_of("s3://bucket/some/file").region == "eu-central-1"
    amazon.headers = {}
    assert inputs.s3_of("s3://bucket/some/file").region == "us-east-1"  # that of the environment


def test_a_name_that_is_no_text_is_its_rows_error(tmp_path: Path) -> None:
    for name in (b"a.png", b"caf\xe9.png", "ü.png".encode()):
        (tmp_path / os.fsdecode(name)).write_bytes(PICTURE)
    table = inputs.as_table(inputs.listed(Inputs(folders=(str(tmp_path),), category="checks")))
    good, latin, umlaut = inputs.decoded(table, {"checks": 32}).to_pylist()
    assert good["error"] is umlaut["error"] is None
    assert latin["path"] == f"{tmp_path}/caf\\udce9.png"
    assert latin["error"] == f"{tmp_path}/caf\\udce9.png: its name is not UTF-8: rename it"


def test_few_pictures_are_decoded_at_a_time_however_many_are_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decoded picture may take hundreds of times what its file does."""
    pictures = [checks(seed) for seed in range(32)]
    paths = [str(path) for path in images.find(write(tmp_path, pictures))]
    decode, lock, now, most = images.decode, threading.Lock(), 0, 0

    def counted(data: bytes, name: str) -> images.Picture:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.01)
        try:
            return decode(data, name)
        finally:
            with lock:
                now -= 1

    monkeypatch.setattr(images, "decode", counted)
    table = pa.table({"path": paths, "category": ["checks"] * 32})
    found = inputs.decoded(table, {"checks": 64})["picture"].to_pylist()
    assert found == [picture.tobytes() for picture in pictures]
    assert most == inputs.DECODERS == 2


def test_pictures_come_decoded_at_their_categorys_size_or_with_their_error(tmp_path: Path) -> None:
    picture = stripes(0)
    (tmp_path / "good.png").write_bytes(images.encode_png(picture))
    (tmp_path / "bad.png").write_bytes(b"no picture")
    good, bad = str(tmp_path / "good.png"), str(tmp_path / "bad.png")
    table = pa.table(
        {
            "path": [good, bad, None, good, None, bad, bad],
            "bytes": pa.array([None, None, PICTURE, b"", None, None, None], pa.binary()),
            "id": [5, 6, 7, 8, 9, 10, 11],
            "category": ["small", "small", "large", "small", "large", "unknown", None],
        }
    )
    found = inputs.decoded(table, {"small": 32, "large": 48})
    assert found.column_names == ["path", "id", "category", "picture", "error"]
    assert found["id"].to_pylist() == [5, 6, 7, 8, 9, 10, 11]
    first, second, third, fourth, fifth, *others = found.to_pylist()
    assert np.array_equal(np.frombuffer(first["picture"], np.uint8).reshape(32, 32, 3), images.resize(picture, 32))
    assert third["picture"] == images.resize(checks(0), 48).tobytes()
    assert [row["error"] is None for row in (first, third)] == [True, True]
    assert "bad.png: is no picture" in second["error"]
    assert "good.png: is empty" in fourth["error"]
    assert "without path and bytes" in fifth["error"]
    assert second["picture"] is fourth["picture"] is fifth["picture"] is None
    assert [(row["picture"], row["error"]) for row in others] == [(None, None)] * 2  # nobody will score them
