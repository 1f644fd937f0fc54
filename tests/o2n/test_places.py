"""Folders and prefixes on S3, listed and read alike."""

from collections.abc import Callable
from pathlib import Path

import pytest

from o2n import images, places
from o2n.errors import PictureError, StoreError
from o2n.s3 import s3_client
from tests.helpers import checks
from tests.s3_answers import Server, breaking_off

PICTURE = images.encode_png(checks(0))


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
    assert places.files_in(root) == [f"{root}/b.PNG"]
    assert places.files_in(f"{root}/nowhere") is None
    assert places.folders_in(root) == places.folders_in(root + "/") == ["a"]
    found = list(places.walk(root))
    assert found == list(places.walk(root + "/"))
    assert {path.removeprefix(root + "/") for path in found} == {"b.PNG", "a/z.jpg", "a/ä ö.png", "a/b/c.bmp"}
    assert list(places.walk(root, (".parquet",))) == [f"{root}/scores.parquet"]
    for path in found:
        assert places.read_bytes(path) == PICTURE


def test_a_picture_that_breaks_off_on_its_way_is_read_again(
    bucket: str, way: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_client().put_object(Bucket=bucket, Key="a.png", Body=PICTURE)
    way.spoil = breaking_off(1)
    assert places.read_bytes(f"s3://{bucket}/a.png") == PICTURE
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    places._client_of.cache_clear()
    way.spoil = breaking_off(1)
    with pytest.raises(StoreError, match=rf"a.png: cannot be read .*{len(PICTURE)}"):
        places.read_bytes(f"s3://{bucket}/a.png")


def test_a_web_page_is_no_picture(bucket: str, way: Server) -> None:
    way.spoil = lambda command, status, data: (200, b"<html><body>Welcome <br></body></html>")
    with pytest.raises(StoreError, match="without ETag"):
        places.read_bytes(f"s3://{bucket}/a.png")


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (301, {}, b""),
        (302, {"Location": "http://127.0.0.1:1/"}, b""),
        (307, {"Location": "/login"}, b""),
        (200, {}, b"<ListBucketResult><Contents><Size>3</Size></Contents></ListBucketResult>"),
    ],
)
def test_what_is_no_answer_of_s3s_is_told(answering: Server, status: int, headers: dict[str, str], body: bytes) -> None:
    answering.status, answering.headers, answering.body = status, headers, body
    for look in (places.files_in, places.folders_in, lambda place: list(places.walk(place))):
        with pytest.raises(StoreError, match=r"s3://bucket/new: cannot be read .*O2N_S3_ENDPOINT"):
            look("s3://bucket/new")


def test_of_what_is_too_large_no_more_is_read_than_shows_it(
    place: tuple[str, Callable], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, put = place
    put("a.png", bytes(1001))
    monkeypatch.setattr(images, "MAX_BYTES", 999)
    assert places.read_bytes(f"{root}/a.png") == bytes(1000)


def test_linked_folders_are_walked_and_loops_are_not(tmp_path: Path) -> None:
    inside, elsewhere = tmp_path / "in" / "a", tmp_path / "elsewhere"
    for folder in (inside, elsewhere):
        folder.mkdir(parents=True)
        (folder / "x.png").write_bytes(PICTURE)
    (inside / "linked").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(tmp_path / "in")
    root = str(tmp_path / "in")
    assert list(places.walk(root)) == [f"{root}/a/x.png", f"{root}/a/linked/x.png"]


def test_a_prefix_is_a_folder_and_not_the_start_of_a_name(place: tuple[str, Callable]) -> None:
    root, put = place
    put("new/a.png", PICTURE)
    put("newer/b.png", PICTURE)
    assert list(places.walk(f"{root}/new")) == [f"{root}/new/a.png"]


def test_what_is_not_there_is_the_pictures_error_and_who_cannot_be_reached_is_not(
    place: tuple[str, Callable], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, put = place
    put("a.png", PICTURE)
    with pytest.raises(PictureError, match=r"gone.png: cannot be read"):
        places.read_bytes(f"{root}/gone.png")
    if root.startswith("s3://"):
        with pytest.raises(PictureError, match="NoSuchBucket"):
            list(places.walk("s3://no-such-bucket-at-all/x"))
        monkeypatch.setenv("O2N_S3_ENDPOINT", "http://127.0.0.1:9")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        with pytest.raises(StoreError, match="check AWS credentials and O2N_S3_ENDPOINT"):
            places.read_bytes(f"{root}/a.png")
    else:
        with pytest.raises(PictureError, match="cannot be listed"):
            list(places.walk(f"{root}/nowhere"))


@pytest.mark.parametrize("place", ["s3://", "s3:///x", "a\0b", "x" * 5000])
def test_a_place_that_is_none_is_refused(place: str) -> None:
    for read in (places.read_bytes, places.folders_in, lambda place: list(places.walk(place))):
        with pytest.raises(PictureError, match=r"no place on S3|null (byte|character)|name too long"):
            read(place)
    if place != "a\0b":  # which Python says is no folder
        with pytest.raises(PictureError, match=r"no place on S3|name too long"):
            places.files_in(place)


@pytest.mark.parametrize(
    ("file", "place", "found"),
    [
        ("lists/all.csv", "good", "lists/good"),
        ("all.csv", "good", "good"),
        ("lists/all.csv", "/data/good", "/data/good"),
        ("lists/all.csv", "s3://b/good", "s3://b/good"),
        ("s3://b/lists/all.csv", "good", "s3://b/lists/good"),
        ("s3://b/lists/all.csv", "/data/good", "/data/good"),
    ],
)
def test_what_a_list_names_lies_beside_it(file: str, place: str, found: str) -> None:
    assert places.beside(file, place) == found
