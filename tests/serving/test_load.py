"""Too many requests, slow ones, and clients that say nothing or nonsense."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from serving_parts import asked, client, infer, python_model, serving, until
from test_batching import Gated
from tritonclient.utils import InferenceServerException

from edgec.serving import patience
from edgec.serving.server import Server

HEAD = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: here\r\nContent-Length: 90\r\n\r\n"


def connected(server: Server, sent: bytes = b"") -> socket.socket:
    host, _, port = server.address.removeprefix("http://").rpartition(":")
    made = socket.create_connection((host, int(port)), timeout=60)
    made.sendall(sent)
    return made


def test_a_full_queue_refuses_and_recovers(x: np.ndarray) -> None:
    model = Gated()
    with serving([python_model(model)], waiting=2) as server:
        with ThreadPoolExecutor(3) as pool:
            answers = [pool.submit(infer, server, x)]
            until(lambda: len(model.runs) == 1)
            answers += [pool.submit(infer, server, x) for _ in "ab"]
            until(lambda: len(server.queues[0]) == 2)
            connection = http.client.HTTPConnection(server.address.removeprefix("http://"), timeout=60)
            connection.request("POST", "/v2/models/m/infer", b"{}")
            refused = connection.getresponse()
            assert refused.status == 503
            assert int(refused.headers["Retry-After"]) >= 1
            assert b"2 requests wait for m" in refused.read()
            model.go.set()
            for answer in answers:
                np.testing.assert_array_equal(answer.result(), 2 * x)
        infer(server, x)


@pytest.mark.parametrize("by", ["server", "client"])
def test_a_request_that_takes_too_long_is_answered(x: np.ndarray, by: str) -> None:
    model = Gated()
    with (
        serving([python_model(model)], seconds=0.2 if by == "server" else 60) as server,
        client(server) as caller,
    ):
        with pytest.raises(InferenceServerException, match=r"within 0\.[12] s"):
            caller.infer("m", asked(x), timeout=None if by == "server" else 100_000)
        # The run goes on, so the model is not ready where it is over the server's own time.
        until(lambda: caller.is_model_ready("m") == (by == "client"))
        model.go.set()
        until(lambda: caller.is_server_ready())
        caller.infer("m", asked(x))


def test_a_model_that_fails_is_said_and_the_server_lives(x: np.ndarray) -> None:
    model = Gated()
    model.go.set()
    with serving([python_model(model)]) as server, client(server) as caller:
        with pytest.raises(InferenceServerException, match="m failed: a negative number"):
            caller.infer("m", asked(x - 9))
        caller.infer("m", asked(x))


def test_stalled_clients_cost_no_thread_and_are_hung_up_on(
    x: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "LONGEST_HEAD", 1.0)
    model = Gated()
    model.go.set()
    with serving([python_model(model)], seconds=2.0) as server, client(server) as caller:
        caller.infer("m", asked(x))
        before = threading.active_count()
        silent = [connected(server, sent) for sent in (b"", b"POST /v2", HEAD[:-2]) for _ in range(40)]
        halfway = [connected(server, HEAD + b"{") for _ in range(40)]
        until(lambda: len(server.server_state.connections) >= 161)
        assert threading.active_count() == before
        caller.infer("m", asked(x))
        for one in silent:
            with contextlib.suppress(ConnectionResetError):
                assert one.recv(100) == b""
        for one in halfway:
            assert one.recv(100).startswith(b"HTTP/1.1 408")
        for one in (*silent, *halfway):
            one.close()
        caller.infer("m", asked(x))
        until(lambda: len(server.server_state.connections) == 1)


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00\x01\x02\x03\r\n\r\n",
        b"GET\r\n\r\n",
        b"POST /v2/models/m/infer HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST /v2/models/m/infer HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"POST /v2/models/m/infer HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_a_malformed_request_is_refused_and_others_are_served(
    x: np.ndarray, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "LONGEST_HEAD", 1.0)
    model = Gated()
    model.go.set()
    with serving([python_model(model)], seconds=1.0) as server, client(server) as caller:
        with connected(server, sent) as one:
            said = one.recv(1000)
            assert not said or said.split()[1] in (b"400", b"408")
        caller.infer("m", asked(x))


def test_the_connections_that_wait_longest_go_where_there_are_too_many(
    x: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "most_connections", lambda: 20)
    model = Gated()
    model.go.set()
    with serving([python_model(model)]) as server:
        idle = [connected(server) for _ in range(60)]
        until(lambda: len(server.server_state.connections) <= 20)
        with client(server) as caller:
            caller.infer("m", asked(x))
        for one in idle:
            one.close()


def _send_headers_for_ever(one: socket.socket) -> None:
    while True:
        one.sendall(b"a: " + b"b" * 4000 + b"\r\n")
        time.sleep(0.01)


def test_a_head_without_end_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "LONGEST_HEAD", 3600.0)
    with serving([python_model(Gated())]) as server:
        with connected(server, b"GET /v2 HTTP/1.1\r\n") as one, pytest.raises(OSError):
            _send_headers_for_ever(one)
        until(lambda: not server.server_state.connections)


def test_stopping_finishes_what_was_begun(x: np.ndarray) -> None:
    model = Gated()
    with ThreadPoolExecutor(1) as pool:
        with serving([python_model(model)]) as server:
            answer = pool.submit(infer, server, x)
            until(lambda: len(model.runs) == 1)
            server.should_exit = True
            until(lambda: not server.servers[0].is_serving())
            model.go.set()
        np.testing.assert_array_equal(answer.result(), 2 * x)
