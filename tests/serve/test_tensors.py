"""Tensors whose shape, type and data do not fit together, without HTTP: `test_kserve.py` has those that do."""

import base64
import json

import pytest
from pydantic import ValidationError

from o2n.errors import O2NError
from o2n.images import encode_png
from serve import tensors
from serve.tensors import read_request
from tests.helpers import checks

PNG = base64.b64encode(encode_png(checks(30))).decode()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"datatype": "FP32"}, "datatype"),
        ({"shape": [2]}, "announces"),
        ({"shape": [0]}, "0 pictures"),
        ({"shape": [65]}, "65 pictures"),
        ({"shape": [-1]}, "shape"),
        ({"shape": [1, 2]}, "shape is [N]"),
        ({"data": ["%%%"]}, "base64"),
        ({"data": [1]}, "base64"),
        ({"data": None}, "binary_data_size"),
        ({"data": []}, "announces"),
        ({"data": ["%%%"] * 3}, "announces"),
        ({"parameters": {"binary_data_size": 3}}, "either"),
        ({"data": None, "parameters": {"binary_data_size": 3}}, "3 bytes"),
        ({"datatype": "UINT8"}, "[N, H, W, 3]"),
        ({"datatype": "UINT8", "shape": [1, 16, 16, 3]}, "whole numbers"),
        ({"datatype": "UINT8", "shape": [1, 16, 16, 3], "data": [256] * 768}, "whole numbers"),
        ({"datatype": "UINT8", "shape": [1, 16, 16, 3], "data": [0.5] * 768}, "whole numbers"),
        ({"datatype": "UINT8", "shape": [1, 16, 16, 3], "data": [[1], [2, 3]]}, "whole numbers"),
        ({"datatype": "UINT8", "shape": [1, 16, 16, 3], "data": []}, "whole numbers"),
        ({"datatype": "UINT8", "shape": [1, 1, 1, 3], "data": [1, 2, 3]}, "at least 16"),
    ],
)
def test_tensors_that_do_not_fit_together(change: dict, said: str) -> None:
    good = {"name": "picture", "shape": [1], "datatype": "BYTES", "data": [PNG]}
    body = json.dumps({"inputs": [good | change]}).encode()
    with pytest.raises((O2NError, ValidationError)) as refused:
        read_request(body, len(body))
    assert said in str(refused.value)


def test_a_body_full_of_empty_files_is_not_read_to_its_end() -> None:
    tensor = tensors.InputTensor(name="picture", shape=[1], datatype="BYTES")
    assert len(tensors._elements(tensor, bytes(4_000_000))) == 2
