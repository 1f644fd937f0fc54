"""Folders, S3 prefixes and Parquet files -> the pictures in them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from o2n import images, inputs
from o2n.errors import PictureError, StoreError
from o2n.inputs import Inputs
from o2n.objects import s3_client
from tests.helpers import checks, stripes

PICTURE = images.encode_png(checks(0))


@pytest.fixture(params=["file", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Callable[[str, bytes], None]]:
    """Where pictures lie, and what puts one there."""
    if request.param == "s3":
        bucket = request.getfixturevalue("bucket")
        client = s3_client()

        def put_object(key: str, data: bytes) -> None:
            client.put_object(Bucket=bucket, Key=f"in put/{key}", Body=data)

        return f"s3://{bucket}/in put", put_object

    def put(key: str, data: bytes) -> None:
        path = tmp_path / "in put" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    return str(tmp_path / "in put"), put


def test_pictures_are_found_at_any_depth_in_one_order(place: tuple[str, Callable]) -> None:
    root, put = place
    for key in (
        "b.PNG",
        "a/z.jpg",
        "a/ä ö.png",
        ".hidden/x.png",
        "a/.x.png",
        "notes.txt",
        "a/b/c.bmp",
        "scores.parquet",
    ):
        put(key, PICTURE)
    found = list(inputs.walk(root))
    assert found == list(inputs.walk(root + "/"))
    assert {path.removeprefix(root + "/") for path in found} == {"b.PNG", "a/z.jpg", "a/ä ö.png", "a/b/c.bmp"}
    assert inputs.parquet_files(root) == [f"{root}/scores.parquet"]
    for path in found:
        assert inputs.read_bytes(path) == PICTURE


def test_a_prefix_is_a_folder_and_not_the_start_of_a_name(place: tuple[str, Callable]) -> None:
    root, put = place
    put("new/a.png", PICTURE)
    put("newer/b.png", PICTURE)
    assert list(inputs.walk(f"{root}/new")) == [f"{root}/new/a.png"]


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


def test_what_is_not_there_is_the_pictures_error_and_who_cannot_be_reached_is_not(
    place: tuple[str, Callable], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, put = place
    put("a.png", PICTURE)
    with pytest.raises(PictureError, match=r"gone.png: cannot be read"):
        inputs.read_bytes(f"{root}/gone.png")
    if root.startswith("s3://"):
        with pytest.raises(PictureError, match="NoSuchBucket"):
            list(inputs.walk("s3://no-such-bucket-at-all/x"))
        monkeypatch.setenv("O2N_S3_ENDPOINT", "http://127.0.0.1:9")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        with pytest.raises(StoreError, match="check AWS credentials and O2N_S3_ENDPOINT"):
            inputs.read_bytes(f"{root}/a.png")
    else:
        with pytest.raises(PictureError, match="cannot be listed"):
            list(inputs.walk(f"{root}/nowhere"))


def test_paths_in_parquet_are_listed_with_their_category(place: tuple[str, Callable]) -> None:
    root, put = place
    file = pa.BufferOutputStream()
    pq.write_table(pa.table({"kind": ["a", None], "path": ["/1.png", "/2.png"], "id": [1, 2]}), file)
    put("new.parquet", file.getvalue().to_pybytes())
    where = f"{root}/new.parquet"
    by_column = inputs.listed(Inputs(parquet=where, category_column="kind"))
    assert list(by_column) == [("/1.png", "a"), ("/2.png", None)]
    assert list(inputs.listed(Inputs(parquet=root, category="b"))) == [("/1.png", "b"), ("/2.png", "b")]
    with pytest.raises(PictureError, match="has no column part, only kind, path, id"):
        list(inputs.listed(Inputs(parquet=where, category_column="part")))
    put("broken.parquet", b"PAR1 and nothing more")
    with pytest.raises(PictureError, match=r"broken.parquet: cannot be read"):
        list(inputs.listed(Inputs(parquet=f"{root}/broken.parquet", category="b")))
    with pytest.raises(PictureError, match=r"gone.parquet"):
        list(inputs.listed(Inputs(parquet=f"{root}/gone.parquet", category="b")))


def test_pictures_come_decoded_at_the_models_size_or_with_their_error(tmp_path: Path) -> None:
    picture = stripes(0)
    (tmp_path / "good.png").write_bytes(images.encode_png(picture))
    (tmp_path / "bad.png").write_bytes(b"no picture")
    good, bad = str(tmp_path / "good.png"), str(tmp_path / "bad.png")
    table = pa.table(
        {
            "path": [good, bad, None, good, None],
            "bytes": pa.array([None, None, PICTURE, b"", None], pa.binary()),
            "id": [5, 6, 7, 8, 9],
        }
    )
    found = inputs.decoded(table, side=32)
    assert found.column_names == ["path", "id", "picture", "error"]
    assert found["id"].to_pylist() == [5, 6, 7, 8, 9]
    first, second, third, fourth, fifth = found.to_pylist()
    assert np.array_equal(np.frombuffer(first["picture"], np.uint8).reshape(32, 32, 3), images.resize(picture, 32))
    assert third["picture"] == images.resize(checks(0), 32).tobytes()
    assert [row["error"] is None for row in (first, third)] == [True, True]
    assert "bad.png: is no picture" in second["error"]
    assert "good.png: is empty" in fourth["error"]
    assert "without path and bytes" in fifth["error"]
    assert second["picture"] is fourth["picture"] is fifth["picture"] is None
