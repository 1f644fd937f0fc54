"""The deployed service over real HTTP: the same scores as the library, one shape of error, nothing lost."""

import base64
import io
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle

import httpx
import numpy as np
import pytest
from PIL import Image

from o2n.category import VersionRef
from o2n.images import Picture, decode, encode_png
from o2n.onboard import onboard
from o2n.store import CategoryStore
from o2n.triplet import TripletScorer
from tests.helpers import QUICK, checks, stripes

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def client(service: str) -> httpx.Client:
    return httpx.Client(base_url=service, timeout=60)


def files(*pictures: Picture) -> list[tuple[str, tuple[str, bytes]]]:
    return [("pictures", (f"{index}.png", encode_png(picture))) for index, picture in enumerate(pictures)]


def png_from_base64(text: str) -> Picture:
    return decode(base64.b64decode(text))


def is_error(answer: httpx.Response, status: int, code: str, said: str = "") -> bool:
    body = answer.json()
    assert answer.status_code == status, body
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message", "request_id"}
    assert body["error"]["code"] == code
    assert said in body["error"]["message"]
    assert answer.headers.get_list("x-request-id") == [body["error"]["request_id"]]
    return "\n" not in body["error"]["message"]


def test_scores_maps_and_counterparts_are_the_librarys(client: httpx.Client, published: CategoryStore) -> None:
    pictures = [checks(30), checks(31), checks(32)]
    answer = client.post(
        "/v1/categories/checks/score",
        params={"include": ["anomaly_map", "counterpart", "overlay"]},
        files=files(*pictures),
    )
    assert answer.status_code == 200, answer.text
    body = answer.json()
    ref = published.current("checks")
    assert (body["category"], body["version"]) == ref
    expected = TripletScorer(QUICK, published).score(pictures, [ref] * 3)
    for index, (found, score) in enumerate(zip(body["pictures"], expected, strict=True)):
        assert found["name"] == f"{index}.png"
        for branch in ("score", "s_p", "s_n", "s_text"):
            assert found[branch] == pytest.approx(getattr(score, branch), abs=1e-5)
        np.testing.assert_allclose(found["anomaly_map"], score.anomaly_map, atol=1e-5)
        assert np.abs(png_from_base64(found["counterpart"]).astype(int) - score.counterpart).max() <= 1
        assert png_from_base64(found["overlay"]).shape == pictures[index].shape


def test_the_overlay_of_a_large_picture_comes_scaled_down(client: httpx.Client) -> None:
    answer = client.post(
        "/v1/categories/checks/score", params={"include": "overlay"}, files=files(checks(30, 500, 3000))
    )
    assert png_from_base64(answer.json()["pictures"][0]["overlay"]).shape == (171, 1024, 3)


def test_many_large_pictures_in_one_request(client: httpx.Client) -> None:
    file = io.BytesIO()
    Image.new("1", (7000, 7000), 1).save(file, "PNG")  # 6 kB that become 147 MB
    uploads = [("pictures", (f"{index}.png", file.getvalue())) for index in range(12)]
    answer = client.post("/v1/categories/checks/score", files=uploads)
    assert answer.status_code == 200, answer.text
    scores = [found["score"] for found in answer.json()["pictures"]]
    assert len(scores) == 12
    assert max(scores) - min(scores) < 1e-5


def test_json_and_multipart_give_the_same(client: httpx.Client) -> None:
    multipart = client.post("/v1/categories/checks/score", files=files(checks(40))).json()
    data = base64.b64encode(encode_png(checks(40))).decode()
    as_json = client.post("/v1/categories/checks/score", json={"pictures": [{"name": "0.png", "data": data}]}).json()
    assert as_json == multipart
    assert {"score", "p_value", "is_anomalous"} <= set(as_json["pictures"][0])


def test_many_cameras_of_many_categories_at_once(client: httpx.Client, published: CategoryStore) -> None:
    makers = {"checks": checks, "stripes": stripes}
    wanted = [(name, seed) for name, seed in zip(cycle(makers), range(50, 66), strict=False)]

    def ask(item: tuple[str, int]) -> float:
        name, seed = item
        answer = client.post(f"/v1/categories/{name}/score", files=files(makers[name](seed)))
        assert answer.status_code == 200, answer.text
        return answer.json()["pictures"][0]["score"]

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(ask, wanted))
    refs = [published.current(name) for name, _ in wanted]
    expected = TripletScorer(QUICK, published).score([makers[name](seed) for name, seed in wanted], refs)
    assert found == pytest.approx([score.score for score in expected], abs=1e-5)


def test_a_published_version_takes_over_and_a_rollback_takes_it_back(
    client: httpx.Client, published: CategoryStore
) -> None:
    def served() -> str:
        time.sleep(1.1)  # pointers are remembered for a second
        return client.post("/v1/categories/renewed/score", files=files(checks(1))).json()["version"]

    first = onboard("renewed", [checks(0), checks(1)], QUICK, published).ref
    assert served() == first.version
    second = onboard("renewed", [checks(2), checks(3)], QUICK, published).ref
    assert served() == second.version
    published.rollback("renewed")
    assert served() == first.version
    published.delete("renewed")
    time.sleep(1.1)
    assert is_error(client.post("/v1/categories/renewed/score", files=files(checks(1))), 404, "not_found", "renewed")


def test_categories(client: httpx.Client, published: CategoryStore) -> None:
    listed = client.get("/v1/categories").json()
    assert {"checks", "stripes"} <= {entry["category"] for entry in listed}
    one = client.get("/v1/categories/checks").json()
    assert any(entry.items() <= one.items() for entry in listed)
    assert one["calibration"] == list(published.calibration(published.current("checks")).scores)
    assert [entry["version"] for entry in one["versions"]] == [one["version"], *reversed(one["history"])]
    assert one["version"] == published.current("checks").version
    assert one["references"] == 2


def test_health_and_readiness(client: httpx.Client) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    ready = client.get("/readyz")
    assert ready.status_code == 200
    assert set(ready.json().values()) == {True}


def test_an_unknown_category(client: httpx.Client) -> None:
    assert is_error(client.post("/v1/categories/nuts/score", files=files(checks(0))), 404, "not_found", "nuts")
    assert is_error(client.get("/v1/categories/nuts"), 404, "not_found")


def test_an_unknown_path(client: httpx.Client) -> None:
    assert is_error(client.get("/elsewhere"), 404, "not_found")
    assert is_error(client.get("/v1/categories/checks/score"), 405, "method_not_allowed")


def test_an_oversize_body_is_refused(client: httpx.Client) -> None:
    answer = client.post("/v1/categories/checks/score", files={"pictures": ("big.png", b"x" * (65 << 20))})
    assert is_error(answer, 413, "too_large", "64 MiB")


def test_an_altered_version_fails_alone(client: httpx.Client, published: CategoryStore) -> None:
    ref = onboard("damaged", [checks(8), checks(9)], QUICK, published).ref
    blob = published.manifest(ref).blobs["features"]
    data = bytearray(published.get_blob(blob))
    data[-1] ^= 1
    published.objects.put(f"blobs/sha256/{blob.sha256}", bytes(data))

    def ask(name: str) -> httpx.Response:
        return client.post(f"/v1/categories/{name}/score", files=files(checks(70)))

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(ask, ["damaged", "checks", "stripes", "damaged", "checks", "stripes"]))
    assert [answer.status_code for answer in answers] == [500, 200, 200, 500, 200, 200]
    assert is_error(answers[0], 500, "integrity", "was altered")
    published.delete("damaged")


def test_a_version_of_another_profile_is_a_conflict(client: httpx.Client, published: CategoryStore) -> None:
    ref: VersionRef = onboard("foreign", [checks(0), checks(1)], QUICK.model_copy(update={"t": 0.5}), published).ref
    answer = client.post("/v1/categories/foreign/score", files=files(checks(70)))
    assert is_error(answer, 409, "foundation", ref.version)
    published.delete("foreign")


def test_feedback_is_learned_through_the_deployments(client: httpx.Client, published: CategoryStore) -> None:
    first = onboard("inspected", [checks(0), checks(1)], QUICK, published).ref

    def score() -> dict:
        answer = client.post("/v1/categories/inspected/score", files=files(checks(50)))
        assert answer.status_code == 200, answer.text
        return answer.json()

    before = score()
    learned = client.post(
        "/v1/categories/inspected/feedback",
        files={"picture": ("new.png", encode_png(checks(50)))},
        data={"verdict": "normal", "note": "a shadow"},
    )
    assert learned.status_code == 200, learned.text
    assert learned.json()["by"] == "anybody"  # no tokens are asked for here
    deadline = time.monotonic() + 30
    while (after := score())["version"] == first.version:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert after["version"] == learned.json()["version"]
    assert after["pictures"][0]["s_n"] < before["pictures"][0]["s_n"]
    assert after["pictures"][0]["s_p"] == pytest.approx(before["pictures"][0]["s_p"], abs=1e-5)
    withdrawn = client.post(
        "/v1/categories/inspected/feedback",
        files={"picture": ("new.png", encode_png(checks(50)))},
        data={"verdict": "withdrawn"},
    )
    assert withdrawn.status_code == 200, withdrawn.text
    last = published.current("inspected")
    assert last.version == withdrawn.json()["version"]
    assert published.manifest(last).blobs == published.manifest(first).blobs
    earlier = {"version": first.version}
    assert client.post("/v1/categories/inspected/rollback", params=earlier).json()["version"] == first.version
    published.delete("inspected")


def test_kserves_protocol(client: httpx.Client, published: CategoryStore) -> None:
    data = base64.b64encode(encode_png(checks(40))).decode()
    inputs = [{"name": "picture", "shape": [1], "datatype": "BYTES", "data": [data]}]
    answer = client.post("/v2/models/checks/infer", json={"inputs": inputs, "outputs": [{"name": "pred_score"}]})
    assert answer.status_code == 200, answer.text
    score = client.post("/v1/categories/checks/score", files=files(checks(40))).json()["pictures"][0]["score"]
    assert answer.json()["outputs"][0]["data"] == pytest.approx([score], abs=1e-5)
    assert client.post("/v2/models/nuts/infer", json={"inputs": inputs}).json().keys() == {"error"}


@pytest.mark.parametrize("sent_id", [None, b"camera-7/42", b"\xff\xfe", b"x" * 4000])
def test_every_answer_has_one_id(client: httpx.Client, sent_id: bytes | None) -> None:
    answer = client.get("/v1/categories", headers={"x-request-id": sent_id} if sent_id else {})
    assert answer.status_code == 200, answer.text
    (found,) = answer.headers.get_list("x-request-id")
    assert found == "camera-7/42" if sent_id == b"camera-7/42" else len(found) == 32
