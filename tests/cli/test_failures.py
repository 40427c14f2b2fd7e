"""What nobody foresaw is told as edgec's own fault, with a file; what the system refuses is one sentence."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import onnx
import pytest
from command_line import Command, block_model

from edgec.core import bundle as bundles
from edgec.core.bundle import Bundle


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


def test_a_bug_is_told_as_one_with_a_file_that_holds_no_weights(
    edgec: Command, model_file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def planted(*_: object, **__: object) -> None:
        raise KeyError("planted")

    monkeypatch.setattr("edgec.compiler.check_neutral", planted)
    done = edgec("compile", model_file, "--target", "x86:ort", "-o", "b.edgec", "--json")
    assert done.status == 1
    assert "this is a bug of edgec" in done.err
    report = next((cache / "edgec" / "failures").iterdir())
    assert str(report) in done.json["error"]["fix"]
    fields = json.loads(report.read_text())
    assert fields["error"] == "KeyError: 'planted'"
    assert {"onnx", "numpy"} <= set(fields["packages"])
    ops = [node["op"] for node in fields["graph"]["nodes"]]
    assert "::MatMul" in ops
    assert report.stat().st_size < 60_000
    floats = [held for held in onnx.load(model_file).graph.initializer if len(held.dims) == 2]
    assert all(held.raw_data[:8].hex() not in report.read_text() for held in floats)
    assert "attach" in done.json["error"]["fix"]


def test_the_file_of_a_bug_has_no_folder_of_its_user_and_no_values(
    edgec: Command, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def planted(*_: object, **__: object) -> None:
        raise IndexError(f"{tmp_path}/secret of {Path.home()} " + "0.125, " * 9000)

    model = block_model()
    held = onnx.helper.make_node("Constant", [], ["held"], value_floats=[0.78125, 2.0])
    added = onnx.helper.make_node("Add", [model.graph.output[0].name, "apart"], ["last"])
    apart = onnx.helper.make_node("ReduceSum", ["held"], ["apart"], keepdims=0)
    model.graph.node.extend([held, apart, added])
    model.graph.output[0].name = "last"
    onnx.save(model, "m.onnx")
    monkeypatch.setattr("edgec.passes.manager.Pipeline.run", planted)
    assert edgec("compile", tmp_path / "m.onnx", "--target", "x86:ort", "-o", "b.edgec").status == 1
    text = next((cache / "edgec" / "failures").iterdir()).read_text()
    fields = json.loads(text)
    assert fields["command"][1] == "./m.onnx"
    assert "<edgec>/edgec/compiler.py" in "".join(fields["traceback"])
    assert not [folder for folder in (tmp_path, Path.home()) if str(folder) in text]
    assert "78125" not in text
    assert len(text) < 90_000


def test_a_pass_that_fails_is_a_bug_with_a_way_around_it(
    edgec: Command, model_file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def planted(*_: object) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr("edgec.passes.fuse.gelu.Gelu.apply", planted)
    done = edgec("compile", model_file, "--target", "x86:ort", "-o", "b.edgec", "--json")
    report = next((cache / "edgec" / "failures").iterdir())
    assert done.json["error"]["what"].startswith("this is a bug of edgec: pass fuse.gelu failed")
    assert "--passes -fuse.gelu" in done.json["error"]["fix"]
    assert str(report) in done.json["error"]["fix"]
    fields = json.loads(report.read_text())
    assert "RuntimeError: planted" in "".join(fields["traceback"])
    assert fields["graph"]["nodes"]


def test_what_the_system_refuses_is_no_bug(edgec: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "some/file")

    monkeypatch.setattr("edgec.core.bundle.Bundle.open", refused)
    done = edgec("verify", "b.edgec")
    assert (done.status, done.err) == (
        1,
        "edgec: some/file: the system says: Permission denied; check its permissions\n",
    )


def test_too_little_memory_is_no_bug(edgec: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("edgec.core.bundle.Bundle.open", refused)
    assert "not enough memory" in edgec("verify", "b.edgec").err


def test_a_name_does_not_steer_the_terminal(edgec: Command, tmp_path: Path) -> None:
    done = edgec("verify", "a\x1b[31m\nedgec: all is well\u202e")
    assert len(done.err.splitlines()) == 1
    assert "\x1b" not in done.err
    assert "\u202e" not in done.err


def test_a_file_name_that_is_code_stays_a_name(edgec: Command, tmp_path: Path) -> None:
    name = 'm""";__import__("os").mkdir("PWNED");""" $(mkdir PWNED)\nsyntax=evil.onnx'
    onnx.save(block_model(), tmp_path / name)
    assert edgec("compile", name, "--target", "x86:ort", "-o", "m.edgec", "--zip").status == 0
    assert Bundle.open("m.edgec.zip").manifest["model"]["name"] == name.removesuffix(".onnx")
    for command in ("package --docker -o c", "package --wheel -o w", "report -o r"):
        assert edgec(*command.split(), "m.edgec").status == 0
    code = "import sys; sys.path[:0] = sys.argv[1:]; import m"
    wheels = [str(wheel) for wheel in (tmp_path / "w").glob("*.whl")]
    assert len(wheels) == 2
    subprocess.run([sys.executable, "-c", code, *wheels], check=True, timeout=60)
    assert not (tmp_path / "PWNED").exists()
    dockerfile = (tmp_path / "c" / "Dockerfile").read_text().splitlines()
    assert dockerfile[0].startswith("# Written by edgec.")
    assert not [line for line in dockerfile if line.startswith("syntax")]


def test_a_file_name_that_is_no_text_is_refused(edgec: Command, tmp_path: Path) -> None:
    name = os.fsdecode(b"m\xff.onnx")
    onnx.save(block_model(), tmp_path / name)
    done = edgec("inspect", name)
    assert (done.status, "no UTF-8 text" in done.err) == (2, True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_in_the_temporary_folder(tmp_path: Path, number: int) -> None:
    room = tmp_path / "room"
    room.mkdir()
    code = """
import signal, sys, os, tempfile
signal.signal(signal.SIGINT, signal.default_int_handler)
import edgec.cli.main as main
def command(*_, **__):
    open(os.path.join(tempfile.mkdtemp(), "f"), "w").close()
    os.kill(os.getpid(), int(sys.argv[2]))
    signal.pause()
main.app = command
main.main()
"""
    environment = {**os.environ, "TMPDIR": str(room)}
    for signals in ([int(number)], [int(signal.SIGTERM)]):
        done = subprocess.run(
            [sys.executable, "-c", code, "x", *map(str, signals)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
        assert "Traceback" not in done.stderr
    assert not list(room.iterdir())


def test_two_functions_of_one_name_make_two_bundles(edgec: Command, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    for size in (5, 7):
        (tmp_path / f"model_{size}.py").write_text(
            "import torch\n\n\ndef make():\n    torch.manual_seed(0)\n"
            f'    return torch.nn.Linear(8, {size}).eval(), {{"input": torch.rand(1, 8)}}\n'
        )
        assert edgec("compile", f"model_{size}.py:make", "--target", "x86:ort").status == 0
    assert sorted(path.name for path in tmp_path.glob("*.edgec")) == [
        "model_5.x86.edgec",
        "model_7.x86.edgec",
    ]


def test_another_models_bundle_is_not_written_over(edgec: Command, tmp_path: Path) -> None:
    for folder, seed in (("a", 0), ("b", 1)):
        (tmp_path / folder).mkdir()
        onnx.save(block_model(seed), tmp_path / folder / "m.onnx")
    assert edgec("compile", "a/m.onnx", "--target", "x86:ort").status == 0
    kept = (tmp_path / "m.x86.edgec" / "manifest.json").read_bytes()
    done = edgec("compile", "b/m.onnx", "--target", "x86:ort")
    assert done.status == 2
    assert "holds the bundle of another model, a/m.onnx" in done.err
    assert (tmp_path / "m.x86.edgec" / "manifest.json").read_bytes() == kept
    assert edgec("compile", "./a/m.onnx", "--target", "x86:ort").status == 0


BROKEN = {
    "report.json": ("report", {"model": "m", "schema": 1}),
    "manifest.json": ("verify", {"numerics": {"gates": [{"gate": {"scaled": "much"}}]}}),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_resealed_bundle_that_makes_no_sense_is_one_sentence(
    edgec: Command, shared_bundle: Path, tmp_path: Path, name: str
) -> None:
    command, change = BROKEN[name]
    shutil.copytree(shared_bundle, tmp_path / "b.edgec")
    path = tmp_path / "b.edgec" / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    manifest = json.loads((tmp_path / "b.edgec" / "manifest.json").read_text())
    bundles.seal(tmp_path / "b.edgec", {k: v for k, v in manifest.items() if k not in ("files", "sha256")})
    done = edgec(command, "b.edgec")
    assert done.status == 1
    assert "a bug of edgec" not in done.err
    assert len(done.err.splitlines()) == 1


def test_the_process_folder_is_where_temporary_files_are() -> None:
    code = (
        "import tempfile, edgec.cli.main as m\nm.app = lambda *a, **k: print(tempfile.gettempdir())\nm.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith(str(Path(tempfile.gettempdir()) / "edgec-process-"))
