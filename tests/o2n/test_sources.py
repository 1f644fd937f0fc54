"""Where categories' pictures lie: folders and S3 prefixes alike, and manifests whose mistakes are found by line."""

from pathlib import Path

import boto3
import numpy as np
import pytest

from o2n import sources
from o2n.errors import CategoryError, PictureError, StoreError
from o2n.onboard import read_more_normal, read_references
from o2n.profiles import TINY
from tests.helpers import QUICK, checks, write


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same tree of categories in each kind of place."""
    write(tmp_path / "tree" / "board" / "train" / "good", [checks(0), checks(1)])
    write(tmp_path / "tree" / "board" / "test" / "broken", [checks(9)])
    write(tmp_path / "tree" / "a name", [checks(2), checks(3), checks(4)])
    write(tmp_path / "tree" / ".hidden", [checks(5)])
    (tmp_path / "tree" / "a name" / "notes.txt").write_text("notes")
    (tmp_path / "tree" / "a name" / ".DS_Store.png").write_text("hidden")
    (tmp_path / "tree" / "readme.txt").write_text("no category")
    if request.param == "folder":
        return str(tmp_path / "tree")
    bucket = request.getfixturevalue("bucket")
    client = boto3.client("s3", endpoint_url=request.getfixturevalue("s3"))
    for file in (tmp_path / "tree").rglob("*.*"):
        if file.is_file():
            key = f"some/where/{file.relative_to(tmp_path / 'tree').as_posix()}"
            client.put_object(Bucket=bucket, Key=key, Body=file.read_bytes())
    return f"s3://{bucket}/some/where"


def test_every_folder_of_a_tree_is_a_category(place: str) -> None:
    found = sources.tree(place, QUICK)
    assert [(source.name, source.references) for source in found] == [
        ("a name", f"{place}/a name"),
        ("board", f"{place}/board"),
    ]
    assert {source.profile for source in found} == {QUICK}
    assert sources.tree(place + "/", QUICK) == found or place.startswith("/")
    with pytest.raises((CategoryError, PictureError), match=r"nowhere.*(cannot be listed|has no folders)"):
        sources.tree(f"{place}/nowhere", QUICK)


def test_references_are_in_train_good_or_in_the_folder_itself(place: str) -> None:
    board = read_references(f"{place}/board")
    assert all(np.array_equal(found, checks(seed)) for seed, found in enumerate(board.values()))
    assert len(board) == 2
    assert all(file.startswith(f"{place}/board/train/good/") for file in board)
    assert len(read_references(f"{place}/a name")) == 3
    assert len(read_more_normal(f"{place}/board/test/broken", 64)) == 1
    with pytest.raises(CategoryError, match="no such folder"):
        read_references(f"{place}/nowhere")
    with pytest.raises(CategoryError, match="0 distinct pictures"):
        read_references(f"{place}/board/test")
    with pytest.raises(PictureError, match=r"notes\.txt: is no picture"):
        sources.read_picture(f"{place}/a name/notes.txt")


def test_s3_that_has_no_such_bucket_or_is_not_there_is_told(
    s3: str, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PictureError, match=r"s3://no-such-bucket/x: cannot be read .*NoSuchBucket"):
        sources.tree("s3://no-such-bucket/x", QUICK)
    monkeypatch.setenv("O2N_S3_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match="check AWS credentials and O2N_S3_ENDPOINT"):
        sources.good_pictures(f"s3://{bucket}/x")


YAML = """
# what line 3 makes
- name: bolts
  references: good/bolts
- {name: metal_nuts, references: "s3://parts/nuts", object: hex nut,
   more_normal: more, profile: quick.json}
"""
CSV = """name,references,object,more_normal,profile
bolts,good/bolts,,,

metal_nuts,s3://parts/nuts,hex nut,more,quick.json
"""


@pytest.mark.parametrize(("name", "text"), [("list.yaml", YAML), ("list.CSV", CSV), ("bom.csv", "\ufeff" + CSV)])
def test_a_manifest_lists_categories(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "quick.json").write_text(QUICK.model_dump_json())
    (tmp_path / name).write_text(text, encoding="utf-8")
    bolts, nuts = sources.manifest(str(tmp_path / name), TINY)
    assert bolts == sources.Source("bolts", str(tmp_path / "good/bolts"), TINY)
    assert nuts == sources.Source("metal_nuts", "s3://parts/nuts", QUICK, "hex nut", str(tmp_path / "more"))
    assert (bolts.word, nuts.word) == ("bolts", "hex nut")


def test_a_manifest_on_s3_has_its_profiles_and_pictures_beside_it(s3: str, bucket: str) -> None:
    client, place = boto3.client("s3", endpoint_url=s3), f"s3://{bucket}/lists"
    client.put_object(Bucket=bucket, Key="lists/quick.json", Body=QUICK.model_dump_json().encode())
    client.put_object(Bucket=bucket, Key="lists/list.csv", Body=CSV.encode())
    bolts, nuts = sources.manifest(f"{place}/list.csv", TINY)
    assert bolts == sources.Source("bolts", f"{place}/good/bolts", TINY)
    assert nuts.profile == QUICK
    client.delete_object(Bucket=bucket, Key="lists/quick.json")
    with pytest.raises(CategoryError, match=r"line 4: profile: .*lists/quick.json: cannot be read .*NoSuchKey"):
        sources.manifest(f"{place}/list.csv", TINY)


MISTAKES = {
    "- name: a\n  references: x\n- name: b\n  refrences: y\n": r"line 4: refrences: is no field; there are name, ref",
    "- name: a\n  references: x\n- name: b\n": r"line 3: references: Field required",
    "- name: a\n  references: x\n-\n  references: y\n  name: ../b\n": r"line 5: name: .*'\.\./b' is refused",
    "- name: a\n  references: x\n  object: [7]\n": r"line 3: object: .*valid string",
    "- name: a\n  references:\n": r"line 2: references: Field required",
    "- name: a\n  references: x\n  name: b\n": r"line 3: is no YAML: name is given twice",
    '- {name: a, references: x, profile: "a\\0.json"}\n': r"line 1: profile: .*null byte",
    "[" * 5000: r"is nested too deep",
    "- name: a\n  references: x\n\n- name: a\n  references: y\n": r"line 4: category a is on line 1 already",
    "- name: a\n  references: x\n  profile: big\n": r"line 3: profile: profile 'big' is unknown",
    "- name: a\n  references: x\n- b\n": r"line 3: is no category",
    "- name: a\n  references: [x\n": r"line 3: is no YAML",
    "name: a\nreferences: x\n": r"line 1: is no YAML: not a list",
    "- {name: a, references: x, ? [y] : z}\n": r"line 1",
    "": r"lists no categories",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_in_yaml_is_named_with_its_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "list.yml"
    file.write_text(text)
    with pytest.raises(CategoryError, match=MISTAKES[text]) as refused:
        sources.manifest(str(file), TINY)
    assert str(refused.value).startswith(f"manifest {file}")


CSV_MISTAKES = {
    "name,references\na,x\nb,\n": r"line 3: references: Field required",
    "name,refs\na,x\n": r"line 1: refs: is no field",
    "name;references\na;x\n": r"line 1: name;references: is no field",
    "name,references\na,x,y\n": r"line 2: column 3: is no field",
    'name,references\na,"x\n': r"cannot be read: unexpected end",
    'name,references\n"a\nb",x\n': r"line 3: name: ",
    "name,references\n": r"lists no categories",
    "name,name,references\na,b,x\n": r"its header has name twice",
}


@pytest.mark.parametrize("text", CSV_MISTAKES)
def test_a_mistake_in_csv_is_named_with_its_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "list.csv"
    file.write_text(text)
    with pytest.raises(CategoryError, match=CSV_MISTAKES[text]):
        sources.manifest(str(file), TINY)


@pytest.mark.parametrize("name", ["0815", "2020-01-01", "2020-13-45", "1e5", "null", "yes", "9" * 60])
def test_all_in_a_manifest_is_text(tmp_path: Path, name: str) -> None:
    (tmp_path / "list.yaml").write_text(f"- name: {name}\n  references: 007\n  object:\n")
    (found,) = sources.manifest(str(tmp_path / "list.yaml"), TINY)
    assert (found.name, found.references, found.object_word) == (name, str(tmp_path / "007"), None)


def test_a_manifest_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CategoryError, match=r"neither \.yaml nor \.csv"):
        sources.manifest("list.txt", TINY)
    with pytest.raises(PictureError, match=r"list\.csv: cannot be read \(No such file"):
        sources.manifest(str(tmp_path / "list.csv"), TINY)
    (tmp_path / "list.csv").write_bytes(b"name,references\n\xff,x\n")
    with pytest.raises(CategoryError, match="no UTF-8"):
        sources.manifest(str(tmp_path / "list.csv"), TINY)
