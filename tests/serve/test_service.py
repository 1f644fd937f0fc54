"""The deployed service over real HTTP: the same scores as the library, one shape of error, nothing lost."""

import base64
import io
import json
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
    assert set(body["error"]) == {"code", "message"}
    assert body["error"]["code"] == code
    assert said in body["error"]["message"]
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
    assert set(as_json["pictures"][0]) == {"name", "score", "s_p", "s_n", "s_text"}


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
    import time

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
    assert one in listed
    assert one["version"] == published.current("checks").version
    assert one["references"] == 2


def test_health_and_readiness(client: httpx.Client) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    ready = client.get("/readyz")
    assert ready.status_code == 200
    assert set(ready.json().values()) == {True}


def test_the_api_describes_itself(client: httpx.Client) -> None:
    described = client.get("/openapi.json").json()
    body = described["paths"]["/v1/categories/{name}/score"]["post"]["requestBody"]["content"]
    assert set(body) == {"application/json", "multipart/form-data"}


@pytest.mark.parametrize("name", ["a.b", "a%20b", "%C3%BCn%C3%AF", "x" * 300, "-a"])
def test_hostile_names(client: httpx.Client, name: str) -> None:
    assert is_error(client.post(f"/v1/categories/{name}/score", files=files(checks(0))), 400, "bad_category", "refused")
    assert is_error(client.get(f"/v1/categories/{name}"), 400, "bad_category")


def test_an_unknown_category(client: httpx.Client) -> None:
    assert is_error(client.post("/v1/categories/nuts/score", files=files(checks(0))), 404, "not_found", "nuts")
    assert is_error(client.get("/v1/categories/nuts"), 404, "not_found")


def test_an_unknown_path(client: httpx.Client) -> None:
    assert is_error(client.get("/v2"), 404, "http")
    assert is_error(client.get("/v1/categories/checks/score"), 405, "http")


def broken(kind: str) -> bytes:
    if kind == "truncated":
        return encode_png(checks(0))[:-200]
    if kind == "animated":
        file = io.BytesIO()
        frames = [Image.fromarray(checks(seed)) for seed in range(3)]
        frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
        return file.getvalue()
    if kind == "1x1":
        return encode_png(np.zeros((1, 1, 3), np.uint8))
    if kind == "huge":
        file = io.BytesIO()
        Image.new("1", (20_000, 20_000)).save(file, "PNG")
        return file.getvalue()
    return b"" if kind == "empty" else b"no picture"


@pytest.mark.parametrize("kind", ["truncated", "animated", "1x1", "huge", "empty", "no picture"])
def test_a_bad_picture_is_named_and_the_service_goes_on(client: httpx.Client, kind: str) -> None:
    uploads = [*files(checks(0)), ("pictures", ("bad.png", broken(kind)))]
    assert is_error(client.post("/v1/categories/checks/score", files=uploads), 400, "bad_picture", "bad.png")
    assert client.post("/v1/categories/checks/score", files=files(checks(0))).status_code == 200


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'{"pictures": []}', b'{"pictures": [{"data": "%%%"}]}', b'{"pictures": [{"url": "http://x"}]}'],
)
def test_a_bad_json_body(client: httpx.Client, body: bytes) -> None:
    answer = client.post("/v1/categories/checks/score", content=body, headers={"content-type": "application/json"})
    assert is_error(answer, 422, "invalid_request")


def test_other_bad_requests(client: httpx.Client) -> None:
    url = "/v1/categories/checks/score"
    assert is_error(
        client.post(url, content=b"x", headers={"content-type": "text/plain"}), 400, "bad_picture", "text/plain"
    )
    assert is_error(client.post(url), 400, "bad_picture", "none")
    assert is_error(client.post(url, files={"other": b"x"}), 400, "bad_picture", "'pictures'")
    no_boundary = {"content-type": "multipart/form-data"}
    assert is_error(client.post(url, content=b"x", headers=no_boundary), 400, "bad_picture", "multipart")
    assert is_error(
        client.post(url, params={"include": "all"}, files=files(checks(0))), 422, "invalid_request", "include"
    )


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


def test_answers_are_plain_json(client: httpx.Client) -> None:
    answer = client.post("/v1/categories/checks/score", files=files(checks(0)))
    assert answer.headers["content-type"] == "application/json"
    assert json.loads(answer.text) == answer.json()
