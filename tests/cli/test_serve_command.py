"""`edgec serve` as a process: its log, its signals, and what it refuses."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "serving"))
from serving_parts import write_bundle

from edgec.cli.main import run

EDGEC = [sys.executable, "-m", "edgec.cli.main"]


@contextmanager
def served(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, object]]]:
    """A server, and the line of its log that says where it listens."""
    command = [*EDGEC, "serve", *arguments, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            yield process, json.loads(process.stderr.readline())
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_good_order(tmp_path: Path, number: signal.Signals) -> None:
    path = write_bundle(tmp_path / "small.x86.edgec")
    with served(str(path), "--log-requests") as (process, listening):
        body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}
        address = f"{listening['address']}/v2/models/small/infer"
        with urllib.request.urlopen(address, json.dumps(body).encode(), timeout=60) as answer:
            assert json.loads(answer.read())["outputs"][0]["shape"] == [1, 3]
        process.send_signal(number)
        assert process.wait(60) == 0
        assert process.stderr is not None
        lines = [json.loads(line) for line in process.stderr]
    assert [line["event"] for line in lines] == ["request", "stopped"]
    assert (lines[0]["model"], lines[0]["status"]) == ("small", 200)


def test_what_cannot_be_served_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve", str(tmp_path / "none.edgec")], debug=False) == 2
    assert "no such bundle" in capsys.readouterr().err
    path = write_bundle(tmp_path / "small.x86.edgec")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert run(["serve", str(path), "--port", str(taken.getsockname()[1])], debug=False) == 2
    assert "cannot listen on 127.0.0.1" in capsys.readouterr().err
    assert run(["serve", str(path), "--host", "no.such.host.invalid"], debug=False) == 2
    assert "cannot listen on no.such.host" in capsys.readouterr().err
    (path / "engine" / "model.onnx").write_bytes(b"other")
    assert run(["serve", str(path)], debug=False) == 1
    assert "changed after it was written" in capsys.readouterr().err


def test_without_its_packages_it_says_which_extra_has_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("edgec.serving")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "starlette", None)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert run(["serve", str(tmp_path)], debug=False) == 2
    assert "edgec[serve]" in capsys.readouterr().err
