"""The `o2n` command on plain folders, without a cluster."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path

import click
import httpx
import pytest
import torch
from click.testing import CliRunner, Result

from infra.local.cluster import free_port
from o2n.calibration import decide
from o2n.cli import main
from o2n.images import encode_png, read
from o2n.onboard import onboard
from o2n.store import CategoryStore
from o2n.tokens import create_token, read_tokens
from o2n.triplet import TripletScorer
from tests.helpers import QUICK, checks, noisy, stripes, write


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CategoryStore:
    store = CategoryStore((tmp_path / "store").as_uri())
    monkeypatch.setenv("O2N_STORE", store.url)
    return store


def last_json(result: Result) -> dict:
    return json.loads(result.stdout.splitlines()[-1])


def fails_in_one_line(result: Result, said: str, status: int = 1) -> bool:
    assert result.exit_code == status, result.output
    lines = result.stderr.strip().splitlines()
    assert lines[-1].startswith("error: ")
    assert said in lines[-1]
    return "Traceback" not in result.output


def test_onboard_then_score_a_folder(store: CategoryStore, quick_profile: str, tmp_path: Path) -> None:
    good = write(tmp_path / "good", [checks(0), checks(1)])
    more = write(tmp_path / "more", [checks(4), checks(5)])
    spoilt = checks(3)
    spoilt[16:48, 16:48] = (255, 0, 0)
    new = write(tmp_path / "new", [checks(2), spoilt])
    options = ("--object", "circuit board", "--profile", quick_profile, "--more-normal", str(more))
    done = run("onboard", "board", "--references", str(good), *options)
    assert done.exit_code == 0, done.output
    ref = store.current("board")
    assert last_json(done)["version"] == ref.version
    assert last_json(done)["normal_pictures"] == 4
    assert last_json(done)["least_false_positive_rate"] == 0.2
    assert last_json(done)["warnings"] == []
    assert store.manifest(ref).object_word == "circuit board"

    scored = run("score", "board", str(new), str(good / "000.png"), "--json", "--false-positive-rate", "0.4")
    assert scored.exit_code == 0, scored.output
    assert "note:" not in scored.stderr
    lines = [json.loads(line) for line in scored.stdout.splitlines()]
    assert [line["path"] for line in lines] == [str(new / "000.png"), str(new / "001.png"), str(good / "000.png")]
    scorer = TripletScorer(QUICK, store)
    for line in lines:
        decision = decide(line["score"], store.calibration(ref), 0.4).values()
        assert set(line) == {"path", "score", "s_p", "s_n", "s_text", "version", *decision}
        (expected,) = scorer.score([read(Path(line["path"]))], [ref])
        assert line["score"] == pytest.approx(expected.score, abs=1e-5)
        assert line["version"] == ref.version
        assert {name: line[name] for name in decision} == decision
    assert [line["is_anomalous"] for line in lines][1:] == [True, False]

    report = tmp_path / "report.html"
    table = run("score", "board", str(new), "--report", str(report))
    assert "S_text" in table.stdout
    assert "anomalous" in table.stdout.splitlines()[2]
    note = "a false-positive rate of 5% cannot be promised with 4 normal pictures: decided at 20%; 15 more are needed"
    assert f"note: {note}" in table.stderr
    assert report.read_text().count("<article") == 2
    assert note in report.read_text()


def test_who_stops_an_onboarding_is_told_how_it_goes_on(
    store: CategoryStore, quick_profile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("onboard", "board", "--references", str(write(tmp_path / "good", [checks(0), checks(1)])))

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as stopped:
        stopped.setattr("o2n.making.draw_pool", interrupted)
        told = run(*command, "--profile", quick_profile)
    assert told.exit_code == 1
    assert "board was not onboarded to the end: the same command goes on" in told.stderr
    assert store.categories() == []
    assert "adapter" in last_json(run(*command, "--profile", quick_profile))["resumed"]


def test_a_reference_unlike_the_others_is_told(store: CategoryStore, quick_profile: str, tmp_path: Path) -> None:
    good = write(tmp_path / "good", [noisy(0), noisy(1), stripes(0)])
    done = run("onboard", "board", "--references", str(good), "--profile", quick_profile)
    assert done.exit_code == 0, done.output
    told = f"reference 3 of 3 ({good / '002.png'}) is"
    assert f"warning: {told}" in done.stderr
    assert told in last_json(done)["warnings"][0]
    assert f"warning: {told}" in run("categories", "show", "board").stdout


def test_feedback(store: CategoryStore, tmp_path: Path) -> None:
    first = onboard("board", [checks(0), checks(1)], QUICK, store).ref
    picture, other = (str(path) for path in sorted(write(tmp_path / "new", [stripes(0), stripes(1)]).iterdir()))
    said = run("feedback", "board", picture, "--normal", "--by", "ada", "--note", "the new board")
    assert said.exit_code == 0, said.output
    second = store.current("board")
    assert second != first
    assert second.version in said.stdout
    assert "3 normal pictures (2 references, 1 fed back)" in said.stdout
    again = run("feedback", "board", picture, "--normal", "--by", "grace")
    assert "among the normal pictures of board already" in again.stdout
    assert store.current("board") == second

    kept = run("feedback", "board", other, "--anomalous", "--by", "ada")
    assert kept.exit_code == 0, kept.output
    assert [said.verdict for said in store.feedback("board")] == ["normal", "anomalous"]
    assert store.current("board") == second
    shown = run("categories", "show", "board").stdout
    assert "a picture that ada said is normal: the new board" in shown
    assert "1 picture kept as anomalous" in shown
    assert kept.stderr == ""
    doubted = run("feedback", "board", picture, "--anomalous", "--by", "grace").stderr
    assert "is among its normal pictures yet: take it out with --withdrawn" in doubted
    (reference,) = write(tmp_path / "old", [checks(1)]).iterdir()
    doubted = run("feedback", "board", str(reference), "--anomalous", "--by", "grace").stderr
    assert "is one of its references: onboard it again without that one" in doubted

    withdrawn = run("feedback", "board", picture, "--withdrawn", "--by", "grace", "--note", "a crack")
    assert withdrawn.exit_code == 0, withdrawn.output
    assert f"version {store.current('board').version}, without {picture}" in withdrawn.stdout
    assert "was withdrawn before" in run("feedback", "board", picture, "--withdrawn", "--by", "ada").stdout
    told = f"version {second.version} without one that grace withdrew: a crack"
    assert told in run("categories", "show", "board").stdout
    assert fails_in_one_line(run("feedback", "board", other, "--withdrawn", "--by", "ada"), "nothing to withdraw")

    assert run("categories", "rollback", "board", "--version", first.version).exit_code == 0
    assert store.current("board") == first
    assert run("feedback", "board", picture, "--by", "ada").exit_code == 2
    assert run("feedback", "board", picture, "--anomalous", "--normal", "--by", "ada").exit_code == 2
    assert store.current("board") == first
    assert run("feedback", "board", picture, "--normal").exit_code == 2
    assert fails_in_one_line(run("feedback", "nuts", picture, "--normal", "--by", "ada"), "nuts is not in store")
    assert fails_in_one_line(run("feedback", "board", "no.png", "--normal", "--by", "ada"), "cannot be read")


def test_a_bad_picture_does_not_keep_the_others_from_being_scored(store: CategoryStore, tmp_path: Path) -> None:
    onboard("board", [checks(0), checks(1)], QUICK, store)
    new = write(tmp_path / "new", [checks(2), checks(3)])
    (new / "0001.png").write_text("no picture")
    report = tmp_path / "report.html"
    result = run("score", "board", str(new), "--json", "--report", str(report))
    assert fails_in_one_line(result, "1 of 3 pictures")
    assert f"<li>{new / '0001.png'}: is no picture" in report.read_text()
    assert report.read_text().count("<article") == 2
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert ["error" in line for line in lines] == [False, True, False]


def test_names_that_are_no_text_are_scored(store: CategoryStore, tmp_path: Path) -> None:
    onboard("board", [checks(0), checks(1)], QUICK, store)
    new = write(tmp_path / "new", [checks(2)])
    (new / "000.png").rename(new / os.fsdecode(b"caf\xe9.png"))
    result = run("score", "board", str(new), "--report", str(tmp_path / "report.html"))
    assert result.exit_code == 0, result.output
    assert "caf\ufffd.png" in result.stdout
    assert json.loads(run("score", "board", str(new), "--json").stdout)["path"].endswith("caf\udce9.png")


def test_score_errors(store: CategoryStore, tmp_path: Path) -> None:
    picture = str(write(tmp_path / "new", [checks(0)]) / "000.png")
    assert fails_in_one_line(run("score", "board", picture), "category board is not in store")
    assert fails_in_one_line(run("score", "a/b", picture), "category name 'a/b' is refused")
    assert fails_in_one_line(run("score", "board", picture, "--version", "../x"), "is no version")
    onboard("board", [checks(0), checks(1)], QUICK, store)
    (tmp_path / "empty").mkdir()
    assert fails_in_one_line(run("score", "board", str(tmp_path / "empty")), "no pictures in")
    unwritable = run("score", "board", picture, "--json", "--report", str(tmp_path / "empty"))
    assert fails_in_one_line(unwritable, f"report {tmp_path / 'empty'} cannot be written (Is a directory)")
    assert unwritable.stdout == ""  # nothing was scored for it


def test_onboard_errors(store: CategoryStore, tmp_path: Path) -> None:
    one = str(write(tmp_path / "one", [checks(0)]))
    assert fails_in_one_line(
        run("onboard", "a b", "--references", str(write(tmp_path / "two", [checks(0), checks(1)]))), "'a b'"
    )
    assert fails_in_one_line(run("onboard", "board", "--references", one), "1 distinct picture,")
    assert fails_in_one_line(run("onboard", "board", "--references", str(tmp_path / "nowhere")), "no such folder")
    assert fails_in_one_line(run("onboard", "board", "--references", one, "--profile", "huge"), "'huge' is unknown")
    assert fails_in_one_line(run("onboard", "board", "--references", one, "--store", "ftp://x"), "ftp://x")
    assert run("onboard", "board").exit_code == 2
    assert store.categories() == []


def test_categories(store: CategoryStore) -> None:
    assert "no categories" in run("categories", "list").stdout
    first = onboard("board", [checks(0), checks(1)], QUICK, store).ref
    second = onboard("board", [checks(2), checks(3)], QUICK, store).ref
    assert json.loads(run("categories", "list", "--json").stdout)["version"] == second.version
    shown = run("categories", "show", "board").stdout.splitlines()
    versions = [line for line in shown if not line.startswith("    ")]
    assert [line[0] for line in versions] == ["*", " "]
    assert second.version in versions[0]
    assert first.version in versions[1]
    assert "2 normal pictures (2 references): false-positive rates from 33.3% can be promised; roughly" in shown[1]
    assert "for 5%, 17 more are needed" in shown[1]
    details = [json.loads(line) for line in run("categories", "show", "board", "--json").stdout.splitlines()]
    assert [row["current"] for row in details] == [True, False]
    assert details[0]["least_false_positive_rate"] == 1 / 3

    assert first.version in run("categories", "rollback", "board").stdout
    assert store.current("board") == first
    assert run("categories", "rollback", "board", "--version", second.version).exit_code == 0
    assert store.current("board") == second
    assert fails_in_one_line(run("categories", "rollback", "board", "--version", "f" * 16), "never served")

    asked = run("categories", "delete", "board")  # and gets no answer
    assert asked.exit_code == 1
    assert f"Delete category board with all its versions from {store.url}?" in asked.stdout
    assert store.categories() == ["board"]
    assert run("categories", "delete", "board", "--yes").exit_code == 0
    assert store.categories() == []
    assert fails_in_one_line(run("categories", "show", "board"), "is not in store")
    assert fails_in_one_line(run("categories", "delete", "board", "--yes"), "is not in store")


def test_a_category_that_cannot_be_read_leaves_the_others_in_the_list(store: CategoryStore) -> None:
    for name in ("board", "cloth", "plate"):
        onboard(name, [checks(0), checks(1)], QUICK, store)
    store.objects.put("categories/board/current.json", b"{")
    store.objects.delete(f"categories/cloth/versions/{store.current('cloth').version}.json")
    listed = run("categories", "list")
    assert fails_in_one_line(listed, "2 of 3 categories could not be read")
    assert listed.stdout.startswith("plate ")
    assert "error: categories/board/current.json" in listed.stderr
    assert "error: category cloth has no version" in listed.stderr


def test_a_version_that_cannot_be_read_leaves_the_others_to_be_seen(store: CategoryStore) -> None:
    first, second, third = (onboard("board", [checks(n), checks(n + 1)], QUICK, store).ref for n in (0, 2, 4))
    store.objects.delete(f"blobs/sha256/{store.manifest(second).blobs['calibration'].sha256}")
    shown = run("categories", "show", "board")
    assert shown.exit_code == 0
    assert f"error: the calibration of board version {second.version} is gone from store" in shown.stdout

    store.objects.put(f"categories/board/versions/{first.version}.json", b"{}")
    shown = run("categories", "show", "board")
    assert fails_in_one_line(shown, "1 of 3 versions of board could not be read")
    assert [ref.version in shown.stdout for ref in (first, second, third)] == [False, True, True]
    assert f"versions/{first.version}.json" in shown.stderr


def test_a_folder_that_is_no_categorys_is_left_alone(store: CategoryStore) -> None:
    ref = onboard("board", [checks(0), checks(1)], QUICK, store).ref
    for key in ("current.json", f"versions/{ref.version}.json"):
        store.objects.put(f"categories/board.bak/{key}", store.objects.get(f"categories/board/{key}")[0])
    assert run("categories", "list").stdout.startswith(f"board{' ' * 27} {ref.version}")
    assert fails_in_one_line(run("categories", "collect"), "categories/board.bak in store")


def test_tokens(store: CategoryStore) -> None:
    assert "no tokens" in run("tokens", "list").stdout
    created = run("tokens", "create", "line-3", "--scope", "score", "--scope", "feedback")
    assert created.exit_code == 0, created.output
    secret = created.stdout.strip()
    found = read_tokens(store).find(secret)
    assert found is not None
    assert found.scopes == {"score", "feedback"}
    listed = run("tokens", "list")
    assert "line-3" in listed.stdout
    assert secret not in listed.stdout
    assert json.loads(run("tokens", "list", "--json").stdout)["scopes"] == ["feedback", "score"]
    assert fails_in_one_line(run("tokens", "create", "line-3", "--scope", "score"), "line-3 exists")
    assert run("tokens", "create", "other", "--scope", "all").exit_code == 2
    assert run("tokens", "create", "other").exit_code == 2
    assert "revoked" in run("tokens", "revoke", "line-3").stdout
    assert fails_in_one_line(run("tokens", "revoke", "line-3"), "no token 'line-3'")
    assert read_tokens(store).find(secret) is None


def test_score_by_url_errors(store: CategoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("o2n.client.ATTEMPTS", 1)
    picture = str(write(tmp_path / "new", [checks(0)]) / "000.png")
    nobody = f"http://127.0.0.1:{free_port()}"
    assert fails_in_one_line(run("score", "board", picture, "--url", nobody), "cannot be reached")
    assert fails_in_one_line(run("score", "board", picture, "--url", "nonsense"), "'nonsense' is refused")
    assert fails_in_one_line(run("score", "a/b", picture, "--url", nobody), "'a/b' is refused")
    assert run("score", "board", picture, "--url", nobody, "--version", "f" * 16).exit_code == 2


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "o2n.plant"])
def test_insecure_is_refused_where_others_could_reach_it(store: CategoryStore, host: str) -> None:
    assert fails_in_one_line(run("serve", "--insecure", "--host", host), f"refused on {host}")


def test_serve_refuses_what_it_cannot_use_before_anything_starts(
    store: CategoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "execv", lambda *command: pytest.fail(f"started: {command}"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = run("serve", f"--port={port}")
        assert fails_in_one_line(refused, f"port {port} of 127.0.0.1 is taken: choose another with --port")
    free = f"--port={free_port()}"
    assert fails_in_one_line(run("serve", "--host=no.such.host.invalid", free), "'no.such.host.invalid' is unknown")
    assert fails_in_one_line(run("serve", "--host=192.0.2.254", free), "of 192.0.2.254 cannot be listened on")
    (tmp_path / "afile").touch()
    assert fails_in_one_line(run("serve", free, "--store", str(tmp_path / "afile")), "leads through a file")
    assert fails_in_one_line(run("serve", free, "--store", "/nowhere/at/all"), "/nowhere/at is no folder here")


def test_doctor(store: CategoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    healthy = run("doctor")
    assert healthy.exit_code == 0, healthy.output
    for words in (
        "python  3",
        "library o2n .*torch .*faiss",
        r"device  \w+.* \(.*\d cores\)$" if not torch.cuda.is_available() else "device  cuda",
        "models  profile tiny",
        f"store   {store.url} can be read and written, 0 categories",
        "ray     .*no cluster set",
    ):
        assert re.search(rf"^ok      {words}", healthy.stdout, re.M), words
    monkeypatch.setenv("RAY_ADDRESS", f"http://127.0.0.1:{free_port()}")
    sick = run("doctor", "--store", "/nowhere/at/all")
    assert sick.exit_code == 1
    assert re.search(r"^FAILED .*/nowhere/at is no folder here", sick.stdout, re.M)
    assert re.search(r"^FAILED .*RAY_ADDRESS", sick.stdout, re.M)


def commands(group: click.Command, *names: str) -> Iterator[tuple[str, ...]]:
    yield names
    if isinstance(group, click.Group):
        for name, command in group.commands.items():
            yield from commands(command, *names, name)


@pytest.mark.parametrize("names", list(commands(main)), ids=" ".join)
def test_every_command_and_every_option_has_help(names: tuple[str, ...]) -> None:
    command: click.Command = main
    for name in names:
        assert isinstance(command, click.Group)
        command = command.commands[name]
    assert command.help
    for option in command.params:
        assert not isinstance(option, click.Option) or option.help, option.name
    shown = run(*names, "--help")
    assert shown.exit_code == 0
    assert command.help.splitlines()[0] in " ".join(shown.stdout.split())


@pytest.mark.cluster
def test_serve_answers_until_it_is_stopped(published: CategoryStore, quick_profile: str, tmp_path: Path) -> None:
    port, said = free_port(), tmp_path / "said"
    command = [str(Path(sys.executable).with_name("o2n")), "serve", f"--port={port}", f"--profile={quick_profile}"]
    with said.open("w") as log:
        process = subprocess.Popen(
            [*command, f"--store={published.url}"],
            env={**os.environ, "RAY_ADDRESS": ""},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    headers = {"Authorization": f"Bearer {create_token(published, f'o2n-serve-{port}', ['score'])}"}
    try:
        deadline = time.monotonic() + 300
        while True:
            with suppress(httpx.HTTPError):
                if httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=10).status_code == 200:
                    break
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(1)
        listed = httpx.get(f"http://127.0.0.1:{port}/v1/categories", headers=headers).json()
        assert {"checks", "stripes"} <= {entry["category"] for entry in listed}
        assert httpx.get(f"http://127.0.0.1:{port}/v1/categories").status_code == 401
        with ThreadPoolExecutor(6) as clients:
            address = f"http://127.0.0.1:{port}/v1/categories/checks/score"
            files = {"pictures": ("0.png", encode_png(checks(7)))}
            waiting = [clients.submit(httpx.post, address, files=files, headers=headers, timeout=100) for _ in range(6)]
            wait(waiting, return_when=FIRST_COMPLETED)
            os.killpg(process.pid, signal.SIGTERM)  # to all of its processes, as systemd does
            answered = [request.result().status_code for request in waiting]
    finally:
        process.send_signal(signal.SIGINT)
        status = process.wait(120)
    text = said.read_text()
    assert status == 0, text
    assert answered == [200] * 6, text  # what was under way as well
    assert text.startswith("starting the service"), text
    assert not re.search(r"^INFO |(ServeController|ProxyActor) .* INFO |SIGTERM|Traceback", text, re.M), text


def test_space_is_collected(store: CategoryStore) -> None:
    store.put_blob(b"an orphan of this very moment")
    kept = run("categories", "collect")
    assert kept.exit_code == 0
    assert kept.stdout == "0.0 MiB freed: 0 versions, 0 verdicts, 0 stages, 0 blobs\n"
    assert "would be freed" in run("categories", "collect", "--keep", "2", "--dry-run").stdout
    assert len(store.objects.keys("blobs/")) == 1
    for refused in (("--older-than", "0.5"), ("--older-than", "nan"), ("--older-than", "1e12"), ("--keep", "-1")):
        wrong = run("categories", "collect", *refused)
        assert wrong.exit_code != 0
        assert "Traceback" not in wrong.output
        assert len(wrong.output.strip().splitlines()[-1]) > 20
