"""The HTTP server answers every request with an answer, whatever the model's outputs are called."""

from __future__ import annotations

import http.client
import io
import json
import threading
import zipfile
from collections.abc import Iterator, Mapping

import numpy as np
import pytest

from edgec.core import npz
from edgec.runtime import server


@pytest.fixture
def address() -> Iterator[tuple[str, int]]:
    def run(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict.fromkeys(("file", "args", "allow_pickle", "a/b"), 2 * feeds["x"])

    made = server.make(run, "127.0.0.1", 0)
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made.server_address[:2]  # type: ignore[misc]
    made.shutdown()
    made.server_close()
    thread.join(timeout=30)


def post(address: tuple[str, int], body: bytes, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(*address, timeout=30)
    connection.request("POST", "/run", body, headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


def packed(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    npz.write(file, arrays)
    return file.getvalue()


def test_outputs_may_be_called_anything(address: tuple[str, int]) -> None:
    status, body = post(address, packed(x=np.arange(3.0)))
    assert status == 200
    found = npz.read(io.BytesIO(body), 1 << 20)
    assert set(found) == {"file", "args", "allow_pickle", "a/b"}
    np.testing.assert_array_equal(found["file"], [0, 2, 4])


def test_a_bomb_and_a_broken_body_are_the_clients_error(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "LARGEST_BODY", 10_000)
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", bytes(1_000_000))
    for body in (bomb.getvalue(), b"junk", packed(x=np.zeros(0))[:-30]):
        status, said = post(address, body)
        assert status == 400
        assert "npz" in json.loads(said)["error"]


@pytest.mark.parametrize("length", ["-5", "x", "9" * 30, "1e9", "²"])
def test_a_length_that_is_none_is_answered(address: tuple[str, int], length: str) -> None:
    connection = http.client.HTTPConnection(*address, timeout=30)
    connection.putrequest("POST", "/run")
    connection.putheader("Content-Length", length.encode())
    connection.endheaders()
    assert connection.getresponse().status in (411, 413)
