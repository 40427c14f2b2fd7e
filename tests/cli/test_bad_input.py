"""Bad input: one sentence that says what, where and what to do; the right status; nothing written."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import TOKENS, WIDTH, Command, block_model
from onnx import TensorProto, helper, numpy_helper

from edgec.core import bundle as bundles


def missing(folder: Path) -> str:
    return str(folder / "nowhere.onnx")


def directory(folder: Path) -> str:
    (folder / "model.onnx").mkdir()
    return str(folder / "model.onnx")


def empty(folder: Path) -> str:
    (folder / "model.onnx").write_bytes(b"")
    return str(folder / "model.onnx")


def truncated(folder: Path) -> str:
    content = block_model().SerializeToString()
    (folder / "model.onnx").write_bytes(content[: len(content) // 2])
    return str(folder / "model.onnx")


def text(folder: Path) -> str:
    (folder / "model.onnx").write_text("weights: 3\n" * 100)
    return str(folder / "model.onnx")


def another_protobuf(folder: Path) -> str:
    tensor = numpy_helper.from_array(np.ones((3, 4), np.float32), "w")
    (folder / "model.onnx").write_bytes(tensor.SerializeToString())
    return str(folder / "model.onnx")


def _saved(model: onnx.ModelProto, folder: Path) -> str:
    onnx.save(model, folder / "model.onnx")
    return str(folder / "model.onnx")


def external_data_outside(folder: Path) -> str:
    (folder / "secret.bin").write_bytes(bytes(4 * WIDTH * WIDTH))
    inside = folder / "inside"
    inside.mkdir()
    model = block_model()
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "proj.weight")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "../secret.bin"), ("length", str(4 * WIDTH * WIDTH))):
        entry = weight.external_data.add()
        entry.key, entry.value = key, value
    (inside / "model.onnx").write_bytes(model.SerializeToString())
    return str(inside / "model.onnx")


def external_data_missing(folder: Path) -> str:
    path = folder / "model.onnx"
    onnx.save(block_model(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (folder / "weights.bin").unlink()
    return str(path)


def cyclic(folder: Path) -> str:
    model = block_model()
    first = next(node for node in model.graph.node if node.op_type == "LayerNormalization")
    first.input[0] = "sum"
    return _saved(model, folder)


def dangling(folder: Path) -> str:
    model = block_model()
    model.graph.node[-1].input[0] = "nobody_makes_this"
    return _saved(model, folder)


def unknown_op(folder: Path) -> str:
    model = block_model()
    model.graph.node[-1].op_type = "GemmPlus"
    return _saved(model, folder)


def unknown_domain(folder: Path) -> str:
    model = block_model()
    model.graph.node[-1].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    return _saved(model, folder)


def nan_weights(folder: Path) -> str:
    model = block_model()
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "head.weight")
    array = numpy_helper.to_array(weight).copy()
    array[0, 0] = np.nan
    weight.CopyFrom(numpy_helper.from_array(array, weight.name))
    return _saved(model, folder)


def open_shape(folder: Path) -> str:
    return _saved(block_model(batch="batch"), folder)


MODULE = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(4, 4)
        self.drop = torch.nn.Dropout(0.5)
    def forward(self, x):
        return torch.nn.functional.dropout(self.fc(x), 0.5, training=True)

def make():
    return Net(), (torch.randn(2, 4),)

def broken():
    return Net().missing
"""


def dropout_left_on(folder: Path) -> str:
    (folder / "net.py").write_text(MODULE)
    return f"{folder / 'net.py'}:make"


def failing_function(folder: Path) -> str:
    (folder / "net.py").write_text(MODULE)
    return f"{folder / 'net.py'}:broken"


def unknown_function(folder: Path) -> str:
    (folder / "net.py").write_text(MODULE)
    return f"{folder / 'net.py'}:mke"


# What to compile, the exit status, and words that the sentence must have.
CASES: list[tuple[Callable[[Path], str], int, tuple[str, ...]]] = [
    (missing, 2, ("nowhere.onnx",)),
    (directory, 2, ("model.onnx",)),
    (empty, 2, ("empty",)),
    (truncated, 2, ("model.onnx",)),
    (text, 2, ("model.onnx",)),
    (another_protobuf, 2, ("model.onnx",)),
    (external_data_outside, 2, ("outside", "secret.bin")),
    (external_data_missing, 2, ("weights.bin",)),
    (cyclic, 2, ("cycl",)),
    (dangling, 2, ("nobody_makes_this",)),
    (unknown_op, 2, ("GemmPlus",)),
    (unknown_domain, 2, ("com.example",)),
    (nan_weights, 2, ("head.weight", "NaN")),
    (open_shape, 2, ("--input", "batch")),
    (dropout_left_on, 2, ("run to run",)),
    (failing_function, 2, ("net.py",)),
    (unknown_function, 2, ("make",)),
    (lambda _: "zoo:vit_digit", 2, ("vit_digits",)),
    (lambda _: "timm:deit_tiny_patch16_223", 2, ("deit_tiny_patch16_224",)),
    (lambda _: "hf:/nowhere", 2, ("/nowhere",)),
    (lambda _: "whatever", 2, ("whatever",)),
]


@pytest.mark.parametrize(("make", "status", "words"), CASES, ids=lambda case: getattr(case, "__name__", None))
def test_a_bad_model_is_one_sentence(
    edgec: Command, tmp_path: Path, make: Callable[[Path], str], status: int, words: tuple[str, ...]
) -> None:
    model = make(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    done = edgec("compile", model, "--target", "x86", "-o", out / "o.edgec", "--json")
    assert done.status == status, done.err
    assert done.err.startswith("edgec: ")
    assert len(done.err.strip().splitlines()) == 1, done.err
    assert "Traceback" not in done.err
    for word in words:
        assert word.lower() in done.err.lower()
    assert done.json["exit_status"] == status
    assert done.json["error"]["what"]
    assert list(out.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--input", "y:1x12x16:float32"], "x"),
        (["--input", "x:1x12x17:float32"], "16"),
        (["--input", "x:1x12x16:int64"], "float32"),
        (["--input", "x:1x12"], "3 dimensions"),
        (["--passes=fuse.attention"], "sign"),
        (["--passes=-fuse.atention"], "fuse.attention"),
        (["--latency", "fast"], "5ms"),
        (["--max-drop", "150%"], "1%"),
        (["--max-drop", "1%"], "--eval-data"),
        (["--precision", "fp64"], "fp32"),
        (["--target", "x87"], "x86"),
        (["--batch", "0"], "batch"),
        (["--seed", "-1"], "seed"),
        (["--frobnicate"], "frobnicate"),
    ],
    ids=lambda value: "".join(value) if isinstance(value, list) else None,
)
def test_a_bad_option_is_one_sentence(
    edgec: Command, model_file: Path, tmp_path: Path, options: list[str], word: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    done = edgec("compile", model_file, "--target", "x86", "-o", out / "o.edgec", *options)
    assert done.status == 2, done.err
    assert len(done.err.strip().splitlines()) == 1, done.err
    assert word in done.err
    assert list(out.iterdir()) == []


@pytest.mark.parametrize(
    ("arrays", "word"),
    [
        ({"y": np.ones((4, TOKENS, WIDTH), np.float32), "labels": np.zeros(4, np.int64)}, "takes ['x']"),
        ({"x": np.ones((4, TOKENS, 3), np.float32), "labels": np.zeros(4, np.int64)}, "shape"),
        ({"x": np.ones((4, TOKENS, WIDTH), np.float32), "labels": np.zeros(3, np.int64)}, "samples"),
        ({"x": np.ones((4, TOKENS, WIDTH), np.float64), "labels": np.zeros(4, np.int64)}, "float64"),
        ({"x": np.ones((4, TOKENS, WIDTH), np.float32), "labels": np.full(4, 5)}, "0 to 4"),
        ({"x": np.full((4, TOKENS, WIDTH), np.nan, np.float32), "labels": np.zeros(4, np.int64)}, "NaN"),
    ],
    ids=["names", "shape", "lengths", "dtype", "classes", "nan"],
)
def test_bad_evaluation_data_is_one_sentence(
    edgec: Command, model_file: Path, tmp_path: Path, arrays: dict[str, np.ndarray], word: str
) -> None:
    np.savez(tmp_path / "eval.npz", **arrays)
    done = edgec(
        "compile",
        model_file,
        "--target",
        "x86",
        "--eval-data",
        tmp_path / "eval.npz",
        "-o",
        tmp_path / "o.edgec",
    )
    assert done.status == 2, done.err
    assert word in done.err
    assert not (tmp_path / "o.edgec").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB more than nothing, where one may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    size = bundles.ALMOST_NOTHING + 64 * 1024
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("mounting a small disk needs privileges")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("target", ["x86:ort", "x86:openvino"])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    edgec: Command, small_disk: Path, target: str
) -> None:
    model = small_disk.parent / "wide.onnx"
    onnx.save(block_model(classes=4000), model)
    done = edgec("compile", model, "--target", target, "-o", small_disk / "o.edgec")
    assert done.status == 1, done.err
    assert "disk is full" in done.err
    assert list(small_disk.iterdir()) == []


def test_an_output_that_cannot_be_written_is_said_before_anything_slow(
    edgec: Command, model_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("x")
    chapter = tmp_path / "thesis" / "chapter"
    for output in (
        tmp_path / "thesis",
        tmp_path / "no" / "such" / "folder",
        chapter / "o",
        chapter / "o" / "o",
    ):
        done = edgec("compile", "timm:deit_tiny_patch16_224", "--target", "x86", "-o", output)
        assert done.status == 2
        assert output.name in done.err or output.parent.name in done.err
        assert ("chapter: is a file" in done.err) == output.is_relative_to(chapter)


@pytest.mark.parametrize("command", [("run", "--output"), ("report", "-o")], ids="-".join)
def test_a_file_that_cannot_be_written_is_said_before_the_work(
    edgec: Command, shared_bundle: Path, tmp_path: Path, monkeypatch, command: tuple[str, str]
) -> None:
    def work(*_: object, **__: object) -> None:
        raise AssertionError("it was begun")

    monkeypatch.setattr("edgec.runtime.session.load", work)
    monkeypatch.setattr("edgec.report.render.render", work)
    for path, word in ((tmp_path, "is a folder"), (tmp_path / "no" / "x", "no such folder")):
        done = edgec(command[0], shared_bundle, command[1], path)
        assert done.status == 2, done.err
        assert len(done.err.strip().splitlines()) == 1
        assert word in done.err


@pytest.mark.parametrize("command", ["run", "verify", "bench", "report"])
def test_what_is_no_bundle_is_one_sentence(edgec: Command, tmp_path: Path, command: str) -> None:
    for path in (tmp_path / "nowhere", tmp_path):
        done = edgec(command, path)
        assert done.status == 2, done.err
        assert len(done.err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("feeds", "word"),
    [
        ({}, "no array for input 'x'"),
        ({"x": np.ones((2, TOKENS, WIDTH), np.float32)}, "shape"),
        ({"x": np.ones((1, TOKENS, WIDTH), np.int64)}, "int64"),
        ({"x": np.ones((1, TOKENS, WIDTH), np.float32), "z": np.ones(1)}, "'z'"),
    ],
)
def test_bad_feeds_are_one_sentence(
    edgec: Command, shared_bundle: Path, tmp_path: Path, feeds: dict[str, np.ndarray], word: str
) -> None:
    bundles.write_arrays(tmp_path / "in.npz", feeds)
    done = edgec("run", shared_bundle, "--input", tmp_path / "in.npz")
    assert done.status == 2
    assert word in done.err
