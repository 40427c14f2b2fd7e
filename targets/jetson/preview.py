"""The preview: TensorRT-RTX's own parser and builder on the lowered graph, without a GPU.

TensorRT-RTX has the API of TensorRT 10 and 11 and builds for a named compute capability without any device.
It does not say how fast an engine is, nor does it run here; it says that a real parser takes every node and
that a real builder finds kernels for all of it.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from edgec.core.dialect import source_layer
from edgec.core.errors import MissingExtraError, UnsupportedError
from edgec.core.evaluation import save_model
from edgec.passes.editing import rank
from edgec.targets.jetson.aside import around, with_new_inputs
from edgec.targets.jetson.bodies import with_bodies
from edgec.targets.jetson.crash import first_to_crash
from edgec.targets.jetson.plan import ShapeProfile

CAPABILITIES = (75, 80, 86, 89, 120, 121)
"""What TensorRT-RTX builds for, times ten."""

_WITHOUT_FP32_PRODUCTS = 75
"""tensorrt-rtx 1.7.1 on SM75: "FP32 GEMM is not supported", "FP32 3D convolution is not supported"; TensorRT
itself has them there."""

_MATRIX_PRODUCTS = ("MatMul", "Gemm", "Einsum", "LSTM", "GRU", "RNN")

_MOST = 16
"""So many refusals are listed: each costs a build without the nodes before."""

_BLACKWELL = 100
"""From here on: Thor's 11.0 is of one generation with 12.x, and 8.9 is two before it."""


@dataclasses.dataclass(frozen=True)
class Preview:
    """What the preview built.

    Attributes:
        tool: the package and its version.
        engine: the engine's bytes.
        layers: layers of the parsed network; 0 where nothing was left to preview.
        seconds: how long all of it took.
        aside: nodes that were previewed around, each as `RoiAlign 'roi' (layer head.roi)`, with the reason.
    """

    tool: str
    engine: bytes
    layers: int
    seconds: float
    aside: dict[str, str] = dataclasses.field(default_factory=dict)


def nearest_capability(compute_capability: int, *, fp32_products: bool = False) -> int:
    """What TensorRT-RTX builds for that is nearest to a device's capability: 86 for 87, 120 for 110.

    A Jetson's own (7.2, 8.7, 11.0) are not among them. Of two as near, the older one.

    Args:
        compute_capability: the device's, times ten.
        fp32_products: whether the graph has any, which TensorRT-RTX refuses for 7.5.
    """
    generation = [one for one in CAPABILITIES if (one >= _BLACKWELL) == (compute_capability >= _BLACKWELL)]
    if fp32_products:
        generation = [one for one in generation if one != _WITHOUT_FP32_PRODUCTS]
    return min(generation, key=lambda one: (abs(one - compute_capability), one))


def has_fp32_products(model: ir.Model) -> bool:
    """Whether a lowered model has products in fp32 that Turing lacks, in the bodies of plugins too."""
    return any(
        node.outputs[0].dtype == ir.DataType.FLOAT
        and (
            node.op_type in _MATRIX_PRODUCTS
            or (node.op_type.startswith("Conv") and rank(node.inputs[0]) == 5)
        )
        for node in with_bodies(model).graph
        if node.outputs
    )


def preview(
    model: ir.Model,
    capabilities: Sequence[int],
    profiles: Sequence[ShapeProfile] = (),
    *,
    target: str,
    lacking: Mapping[str, str] | None = None,
) -> Preview:
    """Parse a lowered model and build it, in a process of its own.

    Args:
        model: the lowered model with its precision written in; plugin ops are replaced by their bodies, as
            TensorRT-RTX has no plugins.
        capabilities: compute capabilities to build for, times ten, of `CAPABILITIES`.
        profiles: shape profiles; none for a model whose shapes are all fixed.
        target: the target's name, for messages.
        lacking: op types to preview around, with the reason: the target has them and TensorRT-RTX has not.

    Raises:
        UnsupportedError: the parser or the builder refuses something; lists every node that they refuse, each
            with its source layer and the reason.
        MissingExtraError: tensorrt-rtx is not installed.
    """
    tool = f"tensorrt-rtx {rtx_version()}"
    model = with_bodies(model)
    start = time.perf_counter()
    aside = {node.name or "": node for node in model.graph if node.op_type in (lacking or {})}
    said = {_shown(node): (lacking or {})[node.op_type] for node in aside.values()}
    reasons: list[str] = []
    while True:
        part = around(model, aside)
        if not part.graph.num_nodes() or not part.graph.outputs:
            built = _Built({"tool": tool, "layers": 0}, b"", "")
            break
        built = _build(part, capabilities, with_new_inputs(part, profiles) if aside else profiles)
        refused, lines = _refusals(part, built, capabilities, profiles)
        reasons += lines
        # One refusal ends the builder: the next is found without what it names.
        if not refused or len(reasons) >= _MOST:
            break
        aside |= {node.name or "": node for node in refused}
    if reasons:
        raise UnsupportedError(
            target, list(dict.fromkeys(reasons)), fix="rewrite these layers in ops that TensorRT takes"
        )
    assert built.result is not None
    return Preview(tool, built.engine, built.result["layers"], time.perf_counter() - start, said)


def _refusals(
    model: ir.Model, built: _Built, capabilities: Sequence[int], profiles: Sequence[ShapeProfile]
) -> tuple[list[ir.Node], list[str]]:
    """The nodes that a build was refused for, as far as it names any, and a line for each reason."""
    result = built.result
    if result is None:
        # It dies in one of its own passes and names no node.
        node = first_to_crash(model, lambda part: _build(part, capabilities, profiles).result is None)
        return [node], [f"{_shown(node)}: {built.ending}"]
    named = [*_parser_errors(result["parser"], model), *_builder_errors(result["builder"], model)]
    return [node for nodes, _ in named for node in nodes], [line for _, line in named]


def _shown(node: ir.Node) -> str:
    return f"{node.op_type} {node.name!r} (layer {source_layer(node)})"


@dataclasses.dataclass(frozen=True)
class _Built:
    """What came of one process.

    Attributes:
        result: what it wrote; None where it ended without.
        engine: the engine's bytes; empty where it built none.
        ending: how it ended, where it ended without a result.
    """

    result: dict[str, Any] | None
    engine: bytes
    ending: str


def _build(model: ir.Model, capabilities: Sequence[int], profiles: Sequence[ShapeProfile]) -> _Built:
    with tempfile.TemporaryDirectory(prefix="edgec-preview-") as scratch:
        folder = Path(scratch)
        save_model(model, folder / "model.onnx")
        request = {
            "model": str(folder / "model.onnx"),
            "engine": str(folder / "model.engine"),
            "capabilities": list(capabilities),
            "profiles": [dataclasses.asdict(profile) for profile in profiles],
        }
        (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
        command = [sys.executable, "-m", "edgec.targets.jetson.preview_process"]
        done = subprocess.run(
            [*command, str(folder / "request.json"), str(folder / "result.json")],
            capture_output=True,
            text=True,
            check=False,
        )
        if not (folder / "result.json").is_file():
            return _Built(None, b"", _ending(done))
        engine = folder / "model.engine"
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        return _Built(result, engine.read_bytes() if engine.is_file() else b"", "")


def rtx_version() -> str:
    """The version of the installed tensorrt-rtx.

    Raises:
        MissingExtraError: it is not installed.
    """
    if importlib.util.find_spec("tensorrt_rtx") is None:
        raise MissingExtraError("tensorrt-rtx", "rtx")
    return importlib.metadata.version("tensorrt-rtx")


def _ending(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode < 0:
        return f"TensorRT-RTX's builder crashes on this node (signal {-done.returncode})"
    said = done.stderr.strip().splitlines()
    return f"TensorRT-RTX ended without a result ({said[-1] if said else f'status {done.returncode}'})"


_Named = tuple[list[ir.Node], str]
"""Nodes that a message is about, none where it names none, and the message with their source layers."""


def _parser_errors(errors: Sequence[Sequence[str]], model: ir.Model) -> list[_Named]:
    nodes = {node.name: node for node in model.graph}
    found: list[_Named] = []
    for op_type, name, reason in errors:
        node = nodes.get(name)
        shown = _shown(node) if node is not None else f"{op_type} {name!r}" if name else ""
        said = " ".join(reason.split())
        found.append(([] if node is None else [node], f"{shown}: {said}" if shown else said))
    return found


def _builder_errors(messages: Sequence[str], model: ir.Model) -> list[_Named]:
    """The builder's messages, with the source layers of the nodes, or at least of the ops, that they name.

    What names a node says what is wrong; beside it the others tell how the builder came to an end.
    """
    nodes = sorted((node for node in model.graph if node.name), key=lambda node: -len(node.name or ""))
    found: list[_Named] = []
    for message in messages:
        named = [node for node in nodes if (node.name or "") in message][:1]
        named = named or [node for node in nodes if re.search(rf"\b{node.op_type} operation", message)]
        layers = ", ".join(_shown(node) for node in named)
        said = " ".join(message.split())
        found.append((named, f"{layers}: {said}" if layers else said))
    telling = [one for one in found if one[0]]
    return telling or found
