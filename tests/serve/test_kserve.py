"""The Open Inference Protocol v2, spoken by a client that is not ours, and by hand where that client would not."""

import base64
from collections.abc import Iterator

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from o2n.calibration import decide
from o2n.images import encode_png
from o2n.triplet import TripletScorer
from serve.tensors import MAX_VALUES
from tests.helpers import QUICK, checks, listening, stripes
from tests.serve.conftest import Local, application

INFER = "/v2/models/checks/infer"
OUTPUTS = ("pred_score", "pred_label", "p_value", "anomaly_map")


@pytest.fixture(scope="module")
def url(local: Local) -> Iterator[str]:
    with listening(application(local.store)) as found:
        yield found.removeprefix("http://")


@pytest.fixture(scope="module")
def foreign(url: str) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(url, network_timeout=300, connection_timeout=300) as client:
        yield client


def tensor(name: str, values: np.ndarray, datatype: str, binary: bool) -> triton.InferInput:
    found = triton.InferInput(name, list(values.shape), datatype)
    found.set_data_from_numpy(values, binary_data=binary)
    return found


def test_metadata_and_health(local: Local, foreign: triton.InferenceServerClient) -> None:
    headers = local.allowed("score")
    assert foreign.is_server_live(headers=headers)
    assert foreign.is_server_ready(headers=headers)
    assert foreign.is_model_ready("checks", headers=headers)
    version = local.store.current("checks").version
    assert foreign.is_model_ready("checks", version, headers=headers)
    assert not foreign.is_model_ready("nuts", headers=headers)
    assert not foreign.is_model_ready("checks", "f" * 16, headers=headers)
    assert foreign.get_server_metadata(headers=headers)["name"] == "o2n"
    found = foreign.get_model_metadata("checks", headers=headers)
    assert found["versions"][0] == version
    assert {output["name"]: output["datatype"] for output in found["outputs"]} == {
        "pred_score": "FP64",
        "pred_label": "BOOL",
        "p_value": "FP64",
        "anomaly_map": "FP32",
    }


@pytest.mark.parametrize("binary_output", [True, False])
def test_files_in_binary_give_the_librarys_scores(
    local: Local, foreign: triton.InferenceServerClient, binary_output: bool
) -> None:
    pictures = [checks(30), stripes(1)]
    files = np.array([encode_png(picture) for picture in pictures], dtype=np.object_)
    wanted = [triton.InferRequestedOutput(name, binary_data=binary_output) for name in OUTPUTS]
    answer = foreign.infer(
        "checks",
        [tensor("picture", files, "BYTES", binary=True)],
        outputs=wanted,
        request_id="42",
        headers=local.allowed("score"),
    )
    ref = local.store.current("checks")
    expected = TripletScorer(QUICK, local.store).score(pictures, [ref, ref])
    assert answer.get_response()["id"] == "42"
    assert answer.get_response()["model_version"] == ref.version
    np.testing.assert_allclose(answer.as_numpy("pred_score"), [score.score for score in expected], atol=1e-5)
    np.testing.assert_allclose(
        answer.as_numpy("anomaly_map"), np.stack([score.anomaly_map for score in expected]), atol=1e-5
    )
    decisions = [decide(score.score, local.store.calibration(ref), 0.05) for score in expected]
    assert answer.as_numpy("pred_label").tolist() == [decision.is_anomalous for decision in decisions]
    assert answer.as_numpy("p_value").tolist() == [decision.p_value for decision in decisions]


@pytest.mark.parametrize("binary", [True, False])
def test_pixels_give_the_same_as_their_file(local: Local, foreign: triton.InferenceServerClient, binary: bool) -> None:
    pixels = tensor("pixels", checks(30)[None], "UINT8", binary)
    headers = local.allowed("score")
    found = foreign.infer("checks", [pixels], headers=headers).as_numpy("pred_score")
    file = tensor("picture", np.array([encode_png(checks(30))], dtype=np.object_), "BYTES", binary=True)
    assert found == pytest.approx(foreign.infer("checks", [file], headers=headers).as_numpy("pred_score"), abs=1e-5)


def test_a_foreign_client_understands_refusals(local: Local, foreign: triton.InferenceServerClient) -> None:
    file = tensor("picture", np.array([b"no picture"], dtype=np.object_), "BYTES", binary=True)
    with pytest.raises(InferenceServerException, match="is no picture of a format that is read"):
        foreign.infer("checks", [file], headers=local.allowed("score"))
    with pytest.raises(InferenceServerException, match="category nuts"):
        foreign.infer("nuts", [file], headers=local.allowed("score"))
    with pytest.raises(InferenceServerException, match="a token is needed"):
        foreign.infer("checks", [file])


def test_files_as_base64_and_a_rate(local: Local) -> None:
    body = {
        "parameters": {"false_positive_rate": 0.5, "unknown": 1},
        "inputs": [
            {
                "name": "picture",
                "shape": [1, 1],
                "datatype": "BYTES",
                "data": [[base64.b64encode(encode_png(checks(30))).decode()]],
            }
        ],
        "outputs": [{"name": "pred_score"}],
    }
    answer = local.client.post(INFER, json=body, headers=local.allowed("score"))
    assert answer.status_code == 200, answer.text
    (output,) = answer.json()["outputs"]
    assert (output["name"], output["shape"], output["datatype"]) == ("pred_score", [1], "FP64")
    assert "id" not in answer.json()


PNG = base64.b64encode(encode_png(checks(30))).decode()


@pytest.mark.parametrize(
    ("body", "length"),
    [(b"", None), (b"{", None), (b"[]", None), (b"{}", "1000"), (b"{}", "x"), (b"{}", "-1"), (b"\xff\xfe", None)],
)
def test_bodies_that_are_none(local: Local, body: bytes, length: str | None) -> None:
    headers = local.allowed("score") | ({"inference-header-content-length": length} if length else {})
    answer = local.client.post(INFER, content=body, headers=headers)
    assert answer.status_code == 422
    assert set(answer.json()) == {"error"}


def test_a_tensor_of_many_numbers_is_refused_before_it_is_parsed_and_taken_as_binary_data(
    local: Local, foreign: triton.InferenceServerClient
) -> None:
    pixels, headers = checks(30, 512, 512)[None], local.allowed("score")
    with pytest.raises(InferenceServerException, match="over 524288 values: send the tensor as binary data"):
        foreign.infer("checks", [tensor("pixels", pixels, "UINT8", binary=False)], headers=headers)
    assert foreign.infer("checks", [tensor("pixels", pixels, "UINT8", binary=True)], headers=headers)
    no_json = local.client.post(INFER, content=b"[]," * MAX_VALUES, headers=local.allowed("score"))
    assert no_json.status_code == 413


def test_files_as_base64_may_be_larger(local: Local) -> None:
    noise = np.random.default_rng(0).integers(256, size=(800, 800, 3), dtype=np.uint8)
    data = [base64.b64encode(encode_png(noise)).decode()]
    assert len(data[0]) > 2 * MAX_VALUES
    good = {"name": "picture", "shape": [1], "datatype": "BYTES", "data": data}
    assert local.client.post(INFER, json={"inputs": [good]}, headers=local.allowed("score")).status_code == 200


def test_a_version_that_served_can_be_named(local: Local) -> None:
    version = local.store.current("checks").version
    good = {"name": "picture", "shape": [1], "datatype": "BYTES", "data": [PNG]}
    named = f"/v2/models/checks/versions/{version}/infer"
    assert local.client.post(named, json={"inputs": [good]}, headers=local.allowed("score")).status_code == 200
    other = f"/v2/models/checks/versions/{'f' * 16}/infer"
    assert local.client.post(other, json={"inputs": [good]}, headers=local.allowed("score")).status_code == 404
