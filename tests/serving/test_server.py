"""The protocol as Triton's client speaks it, over real models."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton
from serving_parts import WEIGHT, asked, client, python_model, serving, write_bundle
from tritonclient.utils import InferenceServerException

from edgec.serving.bundles import opened
from edgec.serving.model import Model, Tensor
from edgec.serving.server import Server

NAMES = ("file", "args", "allow_pickle", "a/b", "ü", '"')


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("bundles")
    one = write_bundle(folder / "one.x86.edgec")
    eight = write_bundle(folder / "eight.x86.edgec", 8)
    with opened([str(one), f"second={eight}"]) as models:
        infinite = python_model(lambda feeds: {"y": feeds["x"] * np.float32("inf")}, "infinite")
        named = Model(
            "named",
            "1",
            "python",
            (Tensor("x", (1, 4), "float32"),),
            tuple(Tensor(name, (1, 4), "float32") for name in NAMES),
            fit=lambda feeds: feeds,
            run=lambda feeds: dict.fromkeys(NAMES, 2 * feeds["x"]),
        )
        with serving([*models, infinite, named]) as made:
            yield made


@pytest.fixture
def caller(server: Server) -> Iterator[triton.InferenceServerClient]:
    with client(server) as made:
        yield made


def post(server: Server, path: str, body: bytes, **headers: str) -> tuple[int, dict[str, object]]:
    connection = http.client.HTTPConnection(server.address.removeprefix("http://"), timeout=60)
    connection.request("POST", path, body, headers)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def test_it_says_what_it_has(server: Server, caller: triton.InferenceServerClient) -> None:
    assert caller.is_server_live()
    assert caller.is_server_ready()
    assert caller.is_model_ready("one")
    assert caller.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    told = caller.get_model_metadata("second")
    assert told["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    assert told["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [-1, 3]}]


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize(("model", "rows"), [("one", 1), ("second", 3), ("second", 8)])
def test_answers_are_the_models(
    caller: triton.InferenceServerClient, model: str, rows: int, binary: bool
) -> None:
    x = np.random.default_rng(rows).standard_normal((rows, 4), np.float32)
    wanted = [triton.InferRequestedOutput("y", binary_data=binary)]
    answer = caller.infer(model, asked(x, binary), outputs=wanted, request_id="mine")
    np.testing.assert_allclose(answer.as_numpy("y"), x @ WEIGHT, rtol=1e-5, atol=1e-6)
    assert answer.get_response()["id"] == "mine"
    assert answer.get_response()["model_version"] == caller.get_model_metadata(model)["versions"][0]


@pytest.mark.parametrize("binary", [True, False])
def test_outputs_may_be_called_anything(
    caller: triton.InferenceServerClient, x: np.ndarray, binary: bool
) -> None:
    wanted = [triton.InferRequestedOutput(name, binary_data=binary) for name in NAMES]
    answer = caller.infer("named", asked(x), outputs=wanted)
    for name in NAMES:
        np.testing.assert_array_equal(answer.as_numpy(name), 2 * x)


@pytest.mark.parametrize("packed", ["gzip", "deflate"])
def test_a_packed_body_is_unpacked(caller: triton.InferenceServerClient, x: np.ndarray, packed: str) -> None:
    answer = caller.infer("one", asked(x), request_compression_algorithm=packed)
    np.testing.assert_allclose(answer.as_numpy("y"), x @ WEIGHT, rtol=1e-5)


def test_a_version_that_is_named_must_be_there(caller: triton.InferenceServerClient, x: np.ndarray) -> None:
    [version] = caller.get_model_metadata("one")["versions"]
    caller.infer("one", asked(x), model_version=version)
    with pytest.raises(InferenceServerException, match="no '7'"):
        caller.infer("one", asked(x), model_version="7")


@pytest.mark.parametrize(
    ("model", "array", "name", "said"),
    [
        ("one", np.zeros((2, 4), np.float32), "x", r"shape \[2, 4\], the model takes \[1, 4\]"),
        ("one", np.zeros((1, 4), np.int32), "x", "is int32, the model takes float32"),
        ("one", np.zeros((1, 4), np.float32), "z", "no array for input 'x'"),
        ("second", np.zeros((9, 4), np.float32), "x", "takes 1 to 8 rows"),
        ("second", np.zeros((0, 4), np.float32), "x", "takes 1 to 8 rows"),
        ("third", np.zeros((1, 4), np.float32), "x", "there is no model 'third'; there are one, second"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(
    caller: triton.InferenceServerClient, model: str, array: np.ndarray, name: str, said: str
) -> None:
    with pytest.raises(InferenceServerException, match=said):
        caller.infer(model, asked(array, name=name))


def test_an_output_that_is_none_is_refused(caller: triton.InferenceServerClient, x: np.ndarray) -> None:
    with pytest.raises(InferenceServerException, match="no output 'z'; there are y"):
        caller.infer("one", asked(x), outputs=[triton.InferRequestedOutput("z")])


def test_what_json_lacks_goes_as_bytes(caller: triton.InferenceServerClient, x: np.ndarray) -> None:
    answer = caller.infer("infinite", asked(x + 1))
    np.testing.assert_array_equal(answer.as_numpy("y"), np.full((1, 4), np.inf, np.float32))
    with pytest.raises(InferenceServerException, match="binary_data"):
        caller.infer("infinite", asked(x + 1), outputs=[triton.InferRequestedOutput("y", binary_data=False)])


@pytest.mark.parametrize(
    ("body", "headers", "status", "said"),
    [
        (b"", {}, 400, "JSON"),
        (b"{", {}, 400, "JSON"),
        (b"[" * 60_000, {}, 400, "JSON"),
        (b"\xff", {}, 400, "JSON"),
        (b'{"inputs": []}', {"Inference-Header-Content-Length": "99"}, 400, "99"),
        (b'{"inputs": []}', {"Inference-Header-Content-Length": "-1"}, 400, "no number"),
        (b"{}", {"Content-Encoding": "br"}, 415, "br"),
        (b"{}", {"Content-Encoding": "gzip"}, 400, "gzip"),
        (b" " * 100_000, {}, 413, "100000"),
    ],
)
def test_a_body_that_is_none_is_refused(
    server: Server, body: bytes, headers: dict[str, str], status: int, said: str
) -> None:
    found, answer = post(server, "/v2/models/one/infer", body, **headers)
    assert found == status
    assert said in str(answer["error"])


def test_a_body_that_unpacks_to_too_much_is_refused(server: Server) -> None:
    import gzip

    bomb = gzip.compress(bytes(1 << 24))
    found, answer = post(server, "/v2/models/one/infer", bomb, **{"Content-Encoding": "gzip"})
    assert found == 413
    assert "unpacks" in str(answer["error"])


def test_an_address_that_is_none_is_answered(server: Server) -> None:
    assert post(server, "/v2/nothing", b"")[0] == 404
    assert post(server, "/v2/health/live", b"")[0] == 405


def test_metrics_count(server: Server, caller: triton.InferenceServerClient, x: np.ndarray) -> None:
    caller.infer("one", asked(x))
    connection = http.client.HTTPConnection(server.address.removeprefix("http://"), timeout=60)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    assert 'edgec_requests_total{model="one",status="200"}' in text
    assert 'edgec_run_rows_bucket{le="1.0",model="one"}' in text
    assert "process_resident_memory_bytes" in text


def test_names_are_taken_once(tmp_path: Path) -> None:
    from edgec.core.errors import RequestError

    path = write_bundle(tmp_path / "a.x86.edgec")
    with pytest.raises(RequestError, match="another model is called 'a'"), opened([str(path), str(path)]):
        pass
    with pytest.raises(RequestError, match="part of an address"), opened([f"a/b={path}"]):
        pass
