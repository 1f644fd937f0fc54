"""The routes of `/v1` without Ray: scores, decisions, verdicts, rollbacks, and one shape for every error."""

import base64
import io
import json
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from starlette.testclient import TestClient

from o2n import images
from o2n.calibration import decide
from o2n.cli import main
from o2n.client import Client
from o2n.errors import ForbiddenError, NotFoundError, PictureError, UnauthorizedError
from o2n.images import Picture, decode, encode_png
from o2n.onboard import onboard
from o2n.store import CategoryStore
from o2n.triplet import TripletScorer
from serve import bodies
from serve.auth import Doorkeeper
from serve.catalog import FRESH_SECONDS
from serve.gateway import create_app
from serve.service import Service
from tests.helpers import QUICK, checks, listening, stripes, write
from tests.serve.conftest import InProcess, Local, application

SCORE = "/v1/categories/checks/score"


def files(*pictures: Picture) -> list[tuple[str, tuple[str, bytes]]]:
    return [("pictures", (f"{index}.png", encode_png(picture))) for index, picture in enumerate(pictures)]


def is_error(answer: httpx.Response, status: int, code: str, said: str = "") -> bool:
    body = answer.json()
    assert answer.status_code == status, body
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message", "request_id"}
    assert body["error"]["code"] == code
    assert said in body["error"]["message"]
    assert body["error"]["request_id"] == answer.headers["x-request-id"]
    assert ("retry-after" in answer.headers) == (status in (429, 503))
    return "\n" not in body["error"]["message"]


def test_a_score_is_the_librarys_and_so_is_the_decision(local: Local) -> None:
    pictures = [checks(30), stripes(1)]
    answer = local.client.post(SCORE, headers=local.allowed("score"), files=files(*pictures))
    assert answer.status_code == 200, answer.text
    ref = local.store.current("checks")
    body = answer.json()
    assert (body["category"], body["version"]) == ref
    expected = TripletScorer(QUICK, local.store).score(pictures, [ref] * 2)
    for found, score in zip(body["pictures"], expected, strict=True):
        assert found["score"] == pytest.approx(score.score, abs=1e-5)
        decision = decide(score.score, local.store.calibration(ref), 0.05)
        assert found["p_value"] == decision.p_value
        assert found["threshold"] == decision.threshold
        assert found["is_anomalous"] == decision.is_anomalous
        assert found["false_positive_rate"] == decision.false_positive_rate
        assert found.get("note") == decision.note


def test_the_rate_that_is_asked_for_is_kept_or_the_note_says_why_not(local: Local) -> None:
    def ask(rate: float) -> dict:
        query = {"false_positive_rate": rate}
        answer = local.client.post(SCORE, params=query, headers=local.allowed("score"), files=files(checks(30)))
        return answer.json()["pictures"][0]

    kept = ask(0.5)
    assert kept["false_positive_rate"] == 0.5
    assert "note" not in kept
    broken = ask(0.001)
    assert broken["false_positive_rate"] > 0.001
    assert "cannot be promised" in broken["note"]
    for rate in (0, 1, -1, 5e-324, "nan", "x"):
        answer = local.client.post(
            SCORE, params={"false_positive_rate": rate}, headers=local.allowed("score"), files=files(checks(30))
        )
        assert is_error(answer, 422, "invalid_request", "false_positive_rate")


def test_what_is_included_on_request(local: Local) -> None:
    query = {"include": ["anomaly_map", "overlay", "counterpart", "reference"]}
    answer = local.client.post(SCORE, params=query, headers=local.allowed("score"), files=files(checks(1, 500, 3000)))
    (found,) = answer.json()["pictures"]
    assert np.array(found["anomaly_map"]).ndim == 2
    shapes = {name: decode(base64.b64decode(found[name])).shape for name in ("overlay", "counterpart", "reference")}
    assert shapes == {"overlay": (171, 1024, 3), "counterpart": (64, 64, 3), "reference": (64, 64, 3)}


@pytest.fixture
def learning(local: Local) -> str:
    """A category of its own, to be taught."""
    onboard("taught", [checks(0), checks(1)], QUICK, local.store)
    return "/v1/categories/taught"


def test_a_normal_verdict_makes_a_version_that_knows_the_picture(local: Local, learning: str) -> None:
    def score() -> dict:
        answer = local.client.post(f"{learning}/score", headers=local.allowed("score"), files=files(checks(50)))
        body = answer.json()
        return body["pictures"][0] | {"version": body["version"]}

    before = score()
    answer = local.client.post(
        f"{learning}/feedback",
        headers=local.allowed("feedback"),
        files={"picture": ("new.png", encode_png(checks(50)))},
        data={"verdict": "normal", "note": "a shadow"},
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["by"] == "only-feedback"
    after = score()
    assert after["version"] == answer.json()["version"] != before["version"]
    assert after["s_n"] == pytest.approx(0, abs=1e-4)
    assert after["s_n"] < before["s_n"]
    assert (after["s_p"], after["s_text"]) == pytest.approx((before["s_p"], before["s_text"]), abs=1e-5)

    as_json = {
        "picture": {"name": "new.png", "data": base64.b64encode(encode_png(checks(50))).decode()},
        "verdict": "normal",
    }
    again = local.client.post(f"{learning}/feedback", headers=local.allowed("feedback"), json=as_json)
    assert again.json()["version"] == after["version"]  # taken once

    rolled = local.client.post(f"{learning}/rollback", headers=local.allowed("admin"))
    assert rolled.json() == {"category": "taught", "version": before["version"]}
    assert score() == before
    (undone,) = local.client.get(f"{learning}/feedback", headers=local.allowed("feedback")).json()
    assert (undone["verdict"], undone["in_bank"]) == ("normal", False)
    query = {"version": after["version"]}
    forward = local.client.post(f"{learning}/rollback", params=query, headers=local.allowed("admin"))
    assert forward.json()["version"] == after["version"]
    listed = local.client.get(f"{learning}/feedback", headers=local.allowed("feedback")).json()
    assert [(entry["verdict"], entry["by"], entry["note"], entry["in_bank"]) for entry in listed] == [
        ("normal", "only-feedback", "a shadow", True)
    ]


def test_a_verdict_is_withdrawn(local: Local, learning: str) -> None:
    def send(picture: np.ndarray, verdict: str) -> httpx.Response:
        return local.client.post(
            f"{learning}/feedback",
            headers=local.allowed("feedback"),
            files={"picture": ("new.png", encode_png(picture))},
            data={"verdict": verdict},
        )

    before = local.store.current("taught")
    wrong, right = (send(picture, "normal").json()["version"] for picture in (stripes(60), checks(61)))
    answer = send(stripes(60), "withdrawn")
    assert answer.status_code == 200, answer.text
    assert answer.json() == {
        "category": "taught",
        "version": local.store.current("taught").version,
        "verdict": "withdrawn",
        "by": "only-feedback",
        "counts_as_normal": False,
    }
    assert answer.json()["version"] not in (before.version, wrong, right)
    left = local.store.manifest(local.store.current("taught")).fed_back[-1]
    assert send(stripes(60), "withdrawn").json() == answer.json()  # taken once
    listed = local.client.get(f"{learning}/feedback", headers=local.allowed("feedback")).json()
    assert [(entry["verdict"], entry["in_bank"]) for entry in listed][-3:] == [
        ("normal", False),
        ("normal", True),
        ("withdrawn", False),
    ]
    assert (listed[-1]["picture"], left.picture) == (listed[-3]["picture"], listed[-2]["picture"])
    assert is_error(send(stripes(62), "withdrawn"), 422, "invalid_request", "there is nothing to withdraw")
    assert is_error(send(checks(0), "withdrawn"), 422, "invalid_request", "onboard the category without it")


def test_an_anomalous_verdict_changes_no_score_and_is_kept_once(local: Local, learning: str) -> None:
    def send(picture: np.ndarray, verdict: str) -> dict[str, object]:
        answer = local.client.post(
            f"{learning}/feedback",
            headers=local.allowed("feedback"),
            files={"picture": ("bad.png", encode_png(picture))},
            data={"verdict": verdict},
        )
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    before = local.store.current("taught")
    for _ in range(2):
        answer = send(stripes(3), "anomalous")
        assert (answer["version"], answer["counts_as_normal"]) == (before.version, False)
    assert local.store.current("taught") == before
    listed = local.client.get(f"{learning}/feedback", headers=local.allowed("feedback")).json()
    assert [entry["verdict"] for entry in listed].count("anomalous") == 1

    learned = send(stripes(64), "normal")
    doubted = send(stripes(64), "anomalous")
    assert learned["counts_as_normal"]
    assert doubted["counts_as_normal"]  # it is for the inspector to withdraw it
    assert doubted["version"] == learned["version"]


def test_bad_feedback(local: Local, learning: str) -> None:
    def send(**body) -> httpx.Response:
        return local.client.post(f"{learning}/feedback", headers=local.allowed("feedback"), **body)

    picture = {"picture": ("new.png", encode_png(checks(50)))}
    assert is_error(send(files=picture, data={"verdict": "fine"}), 422, "invalid_request", "verdict")
    assert is_error(send(files=picture), 422, "invalid_request", "verdict")
    assert is_error(send(files=picture, data={"verdict": "normal", "note": "x" * 1025}), 422, "invalid_request", "note")
    assert is_error(send(data={"verdict": "normal"}, files={"other": b"x"}), 400, "bad_picture", "'picture'")
    assert is_error(send(files={"picture": b"x"}, data={"verdict": "normal"}), 400, "bad_picture")
    assert is_error(send(json={"picture": {"url": "http://x"}, "verdict": "normal"}), 422, "invalid_request")
    assert is_error(send(content=b"x"), 422, "invalid_request", "content type")


def test_categories_and_rollbacks_that_are_none(local: Local) -> None:
    for name, status, code in (("nuts", 404, "not_found"), ("a.b", 400, "bad_category"), ("-x", 400, "bad_category")):
        path = f"/v1/categories/{name}"
        feedback = {"files": {"picture": encode_png(checks(0))}, "data": {"verdict": "normal"}}
        assert is_error(local.client.get(path, headers=local.allowed("score")), status, code)
        assert is_error(
            local.client.post(f"{path}/score", headers=local.allowed("score"), files=files(checks(0))), status, code
        )
        assert is_error(
            local.client.post(f"{path}/feedback", headers=local.allowed("feedback"), **feedback), status, code
        )
        assert is_error(local.client.get(f"{path}/feedback", headers=local.allowed("feedback")), status, code)
        assert is_error(local.client.post(f"{path}/rollback", headers=local.allowed("admin")), status, code)
    rollback = "/v1/categories/stripes/rollback"
    assert is_error(local.client.post(rollback, headers=local.allowed("admin")), 404, "not_found", "no earlier version")
    query = {"version": "f" * 16}
    assert is_error(local.client.post(rollback, params=query, headers=local.allowed("admin")), 404, "not_found")
    query = {"version": "../x"}
    assert is_error(local.client.post(rollback, params=query, headers=local.allowed("admin")), 422, "invalid_request")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/elsewhere", 404, "not_found"),
        ("GET", "/docs", 404, "not_found"),  # FastAPI's, which is blank where there is no internet
        ("GET", "/v1/categories/checks/score", 405, "method_not_allowed"),
        ("DELETE", "/v1/categories/checks", 405, "method_not_allowed"),
        ("GET", "/v1/categories/checks/score/", 404, "not_found"),
        ("GET", "/v1/categories/a%2Fb", 404, "not_found"),
    ],
)
def test_paths_and_methods_that_are_none(local: Local, method: str, path: str, status: int, code: str) -> None:
    answer = local.client.request(method, path, headers=local.allowed("score"), follow_redirects=False)
    assert is_error(answer, status, code, "see /openapi.json")
    assert ("allow" in answer.headers) == (status == 405)


def test_hostile_paths_and_hosts_change_no_shape(local: Local) -> None:
    assert is_error(local.client.get("/a%0Ab%00c"), 404, "not_found")
    assert is_error(local.client.get("/" + "x" * 10_000), 404, "not_found")
    assert is_error(local.client.get("/elsewhere", headers={"host": "[::1"}), 404, "not_found")


def large_png() -> bytes:
    file = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("data", [b"", b"no picture", large_png(), encode_png(np.zeros((1, 1, 3), np.uint8))])
def test_a_bad_picture_is_named(local: Local, data: bytes) -> None:
    uploads = [*files(checks(0)), ("pictures", ("bad.png", data))]
    answer = local.client.post(SCORE, headers=local.allowed("score"), files=uploads)
    assert is_error(answer, 400, "bad_picture", "bad.png")


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'{"pictures": []}', b'{"pictures": [{"data": "%%%"}]}', b'{"pictures": [{"url": "http://x"}]}'],
)
def test_a_bad_json_body(local: Local, body: bytes) -> None:
    headers = local.allowed("score") | {"content-type": "application/json"}
    assert is_error(local.client.post(SCORE, content=body, headers=headers), 422, "invalid_request")


def test_json_of_too_many_values_is_refused_before_it_is_parsed(local: Local) -> None:
    body = b'{"pictures": [' + b"[]," * bodies.MAX_VALUES + b"[]]}"
    for path, scope in ((SCORE, "score"), ("/v1/categories/checks/feedback", "feedback")):
        headers = local.allowed(scope) | {"content-type": "application/json"}
        answer = local.client.post(path, content=body, headers=headers)
        assert is_error(answer, 413, "too_large", "multipart/form-data")


def test_other_bad_requests(local: Local) -> None:
    def send(**request) -> httpx.Response:
        request["headers"] = local.allowed("score") | request.get("headers", {})
        return local.client.post(SCORE, **request)

    assert is_error(send(content=b"x", headers={"content-type": "text/plain"}), 422, "invalid_request", "text/plain")
    assert is_error(send(), 422, "invalid_request", "none")
    assert is_error(send(files={"other": b"x"}), 400, "bad_picture", "'pictures'")
    assert is_error(send(params={"include": "all"}, files=files(checks(0))), 422, "invalid_request", "include")


def test_names_that_no_request_takes_are_refused_instead_of_left_out(local: Local) -> None:
    def send(path: str, scope: str, **body) -> httpx.Response:
        return local.client.post(f"/v1/categories/stripes/{path}", headers=local.allowed(scope), **body)

    pictures = files(stripes(2))
    for query in ("includes=overlay", "include=overlay&%ff=1"):
        known = "is unknown: this request takes include, false_positive_rate"
        assert is_error(send(f"score?{query}", "score", files=pictures), 422, "invalid_request", known)
    answer = send("score", "score", files=pictures, data={"false_positive_rate": "0.5"})
    assert is_error(answer, 422, "invalid_request", "'false_positive_rate' is unknown: this request takes pictures")
    verdict = {"files": {"picture": encode_png(stripes(2))}, "data": {"verdict": "anomalous"}}
    answer = send("feedback?note=a", "feedback", **verdict)
    assert is_error(answer, 422, "invalid_request", "query parameter 'note' is unknown: this request takes none")
    verdict["data"]["by"] = "ada"
    answer = send("feedback", "feedback", **verdict)
    assert is_error(answer, 422, "invalid_request", "field 'by' is unknown: this request takes picture, verdict, note")
    twice = [("picture", encode_png(stripes(seed))) for seed in (2, 3)]
    answer = send("feedback", "feedback", files=twice, data={"verdict": "anomalous"})
    assert is_error(answer, 422, "invalid_request", "form field 'picture' is sent more than once")
    verdicts = {"verdict": ["anomalous", "normal"]}
    answer = send("feedback", "feedback", files={"picture": encode_png(stripes(2))}, data=verdicts)
    assert is_error(answer, 422, "invalid_request", "form field 'verdict' is sent more than once")
    assert local.store.feedback("stripes") == []
    answer = send("score", "score", files=pictures, data={"pictures": "2.png"})
    assert is_error(answer, 422, "invalid_request", "a field 'pictures' has text in it and no file")
    # Who may not ask is told that first.
    assert is_error(local.client.post(f"{SCORE}?includes=overlay"), 401, "unauthorized")


def test_a_rollback_that_names_its_version_elsewhere_is_refused(local: Local) -> None:
    def rollback(query: str = "", **request) -> httpx.Response:
        path = f"/v1/categories/turned/rollback{query}"
        return local.client.post(path, headers=local.allowed("admin"), **request)

    for seeds in ((0, 1), (2, 3)):
        ref = onboard("turned", [checks(seed) for seed in seeds], QUICK, local.store).ref
    assert is_error(rollback(json={"version": "f" * 16}), 422, "invalid_request", "?version=ID")
    assert is_error(rollback(data={"version": "f" * 16}), 422, "invalid_request", "?version=ID")
    assert is_error(rollback("?to=x"), 422, "invalid_request", "'to' is unknown: this request takes version")
    assert is_error(rollback("?version=zzz"), 422, "invalid_request", "a version is 16 hexadecimal digits")
    assert local.store.current("turned") == ref
    local.store.delete("turned")


def test_too_many_pictures(local: Local) -> None:
    answer = local.client.post(SCORE, headers=local.allowed("score"), files=[("pictures", b"x")] * 65)
    assert is_error(answer, 400, "bad_picture", "64")
    pictures = [{"data": ""}] * 65
    answer = local.client.post(SCORE, headers=local.allowed("score"), json={"pictures": pictures})
    assert is_error(answer, 422, "invalid_request", "pictures")


@pytest.mark.parametrize(
    "kind",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=ü",
        "multipart/form-data; boundary=x; charset=none-such",
        "multipart/form-data; boundary=" + "x" * 5000,
    ],
)
@pytest.mark.parametrize(
    "body", [b"", b"--x", b"--x\r\n\r\n", b"--x\r\nContent-Disposition: form-data\r\n\r\nv\r\n--x--"]
)
def test_forms_that_are_none(local: Local, kind: str, body: bytes) -> None:
    headers = local.allowed("score") | {"content-type": kind.encode("latin-1")}
    answer = local.client.post(SCORE, headers=headers, content=body)
    assert is_error(answer, 400, "bad_picture")


def test_two_hundred_mutated_files_are_scored_or_refused(local: Local) -> None:
    rng = np.random.default_rng(7)
    seeds = []
    for form in ("PNG", "JPEG", "WEBP", "GIF"):
        file = io.BytesIO()
        Image.fromarray(checks(0)).save(file, form)
        seeds.append(file.getvalue())
    statuses = []
    for index in range(200):
        data = bytearray(seeds[index % len(seeds)])
        for place in rng.integers(len(data), size=rng.integers(1, 12)):
            data[place] = rng.integers(256)
        cut = bytes(data[: rng.integers(1, len(data) + 1)]) if index % 3 else bytes(data)
        answer = local.client.post(SCORE, headers=local.allowed("score"), files={"pictures": ("m", cut)})
        statuses.append(answer.status_code)
        assert answer.status_code == 200 or is_error(answer, 400, "bad_picture")
    assert {200, 400} == set(statuses)


def test_a_damaged_version_is_the_services_fault_and_says_so(local: Local) -> None:
    ref = onboard("damaged", [checks(8), checks(9)], QUICK, local.store).ref
    blob = local.store.manifest(ref).blobs["features"]
    data = bytearray(local.store.get_blob(blob))
    data[-1] ^= 1
    local.store.objects.put(f"blobs/sha256/{blob.sha256}", bytes(data))
    answer = local.client.post("/v1/categories/damaged/score", headers=local.allowed("score"), files=files(checks(1)))
    assert is_error(answer, 500, "integrity", "altered")
    local.store.delete("damaged")


def test_a_list_of_categories_loads_none(published: CategoryStore) -> None:
    """There may be hundreds, and what a list loads drives out what is being scored with."""
    branches, asked = InProcess(published), []
    branches.check_loads = asked.append
    app = create_app(Service(published, branches), Doorkeeper(published, insecure=True))
    with TestClient(app, base_url="http://127.0.0.1") as client:
        found = client.get("/v1/categories").json()
    assert {"checks", "stripes"} <= {category["category"] for category in found}
    assert asked == []


@pytest.mark.parametrize("work", ["decode", "encode_png"])
def test_pictures_that_take_too_long_are_told_and_take_no_more_threads(
    published: CategoryStore, monkeypatch: pytest.MonkeyPatch, work: str
) -> None:
    branches, go_on, begun = InProcess(published), threading.Event(), []
    app = create_app(Service(published, branches), Doorkeeper(published, insecure=True))

    def slow(*_: object) -> object:
        begun.append(branches.at_work)
        go_on.wait(20)
        raise PictureError("given up")

    with TestClient(app, base_url="http://127.0.0.1") as client:
        assert client.post(SCORE, files=files(checks(30))).status_code == 200
        branches.deadline_seconds = 2.0
        monkeypatch.setattr(images, work, slow)
        for _ in range(2):
            answer = client.post(f"{SCORE}?include=overlay", files=files(*[checks(30)] * 4))
            assert is_error(answer, 503, "deadline", "were not read and drawn in time: send fewer at once")
        go_on.set()
    assert begun == [4, 4]  # two threads have begun, while their four pictures were in flight


def test_weights_make_up_the_score(tmp_path: Path) -> None:
    store, profile = CategoryStore(tmp_path.as_uri()), QUICK.model_copy(update={"branches": ("S_P", "S_text")})
    onboard("checks", [checks(0), checks(1)], profile, store)
    app = create_app(Service(store, InProcess(store, profile)), Doorkeeper(store, insecure=True))
    with TestClient(app, base_url="http://127.0.0.1") as client:
        (found,) = client.post(SCORE, files=files(checks(30))).json()["pictures"]
        weights = client.get("/v1/categories/checks").json()["weights"]
    assert weights == {"s_p": 1.0, "s_n": 0.0, "s_text": profile.beta}
    assert sum(weight * found[branch] for branch, weight in weights.items()) == pytest.approx(found["score"], abs=1e-5)


def test_a_version_that_cannot_be_loaded_is_told(local: Local) -> None:
    ref = onboard("refusing", [checks(8), checks(9)], QUICK, local.store).ref
    path, headers = "/v1/categories/refusing", local.allowed("score")
    assert local.client.get(path, headers=headers).json()["refused"] is None
    foreign = local.store.manifest(ref).model_copy(update={"foundation": "another model"})
    refused = local.store.publish(foreign)
    time.sleep(2 * FRESH_SECONDS)
    for answer in (
        local.client.get(path, headers=headers).json(),
        *(c for c in local.client.get("/v1/categories", headers=headers).json() if c["category"] == "refusing"),
    ):
        assert (answer["version"], answer["history"]) == (ref.version, [])
        assert "another model" in answer["refused"]
    assert [one["version"] for one in local.client.get(path, headers=headers).json()["versions"]] == [ref.version]

    # Neither does a rollback make it serve: the pointer stays where it is.
    local.store.rollback("refusing", ref.version)
    query = {"version": refused.version}
    answer = local.client.post(f"{path}/rollback", params=query, headers=local.allowed("admin"))
    assert is_error(answer, 409, "foundation", "another model")
    assert local.store.current("refusing") == ref
    local.store.delete("refusing")


def test_the_client_speaks_with_it(local: Local, learning: str, tmp_path: Path) -> None:
    folder = write(tmp_path, [checks(60), checks(61)])
    paths = sorted(folder.iterdir())
    with listening(application(local.store)) as url:
        with Client(url, local.tokens["score"]) as client:
            found = client.score("checks", paths, include=["overlay"], false_positive_rate=0.5)
            assert [one.name for one in found] == [str(path) for path in paths]
            assert decode(base64.b64decode(found[0].overlay)).shape == checks(0).shape
            assert {"checks", "taught"} <= {one.category for one in client.categories()}
            (tmp_path / "bad.png").write_bytes(b"x")
            with pytest.raises(PictureError, match=r"bad\.png: is no picture"):
                client.score("checks", [tmp_path / "bad.png"])
            with pytest.raises(NotFoundError, match="nuts"):
                client.score("nuts", paths)
            with pytest.raises(ForbiddenError, match="feedback"):
                client.feedback("taught", paths[0], "normal")
        with Client(url, local.tokens["feedback"]) as client:
            learnt = client.feedback("taught", paths[0], "normal", "a shadow")
            assert learnt.version == local.store.current("taught").version
        with Client(url, local.tokens["admin"]) as client:
            assert client.rollback("taught").version != learnt.version
        with Client(url) as client, pytest.raises(UnauthorizedError, match="o2n tokens create"):
            client.categories()


def test_scoring_by_url_prints_the_same_lines(local: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "new", [checks(60), stripes(1)])
    (folder / "bad.png").write_text("no picture")
    monkeypatch.setenv("O2N_STORE", local.store.url)
    monkeypatch.setenv("O2N_TOKEN", local.tokens["score"])

    def lines(*options: str) -> tuple[list, str]:
        found = CliRunner().invoke(main, ["score", "checks", str(folder), "--json", *options])
        assert found.exit_code == 1, found.output  # for the bad picture
        return [json.loads(line) for line in found.stdout.splitlines()], found.stderr

    with listening(application(local.store)) as url:
        over_http, said = lines("--url", url)
        table = CliRunner().invoke(main, ["score", "checks", str(folder), "--url", url]).stdout.splitlines()
    in_process, said_here = lines()
    assert said == said_here
    for found, expected in zip(over_http, in_process, strict=True):
        assert found.keys() == expected.keys()
        assert found == {
            name: pytest.approx(value, abs=1e-5) if isinstance(value, float) else value
            for name, value in expected.items()
        }
    here = CliRunner().invoke(main, ["score", "checks", str(folder)]).stdout.splitlines()
    assert table[0] == here[0]
    assert [line.split()[-1] for line in table] == [line.split()[-1] for line in here]
