"""The preview: TensorRT-RTX's own parser and builder on the lowered graph, without a GPU.

TensorRT-RTX has the API of TensorRT 10 and 11 and builds for a named compute capability without any device
(`num_compute_capabilities`, `set_compute_capability`). It does not say how fast an engine is, nor does it run
here; it says that a real parser takes every node and that a real builder finds kernels for all of it.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from edgec.core.dialect import EDGEC_DOMAIN, source_layer
from edgec.core.errors import MissingExtraError, UnsupportedError
from edgec.core.evaluation import save_model
from edgec.passes.decompose.plugins import DecomposePlugins
from edgec.passes.manager import Pipeline
from edgec.targets.jetson.plan import ShapeProfile

CAPABILITIES = (75, 80, 86, 89, 120, 121)
"""What TensorRT-RTX builds for, times ten."""


@dataclasses.dataclass(frozen=True)
class Preview:
    """What the preview built.

    Attributes:
        tool: the package and its version.
        engine: the engine's bytes.
        layers: layers of the parsed network.
        seconds: how long parsing and building took.
    """

    tool: str
    engine: bytes
    layers: int
    seconds: float


def nearest_capability(compute_capability: int) -> int:
    """The capability that TensorRT-RTX builds for and that is nearest to a device's: 86 for 87, 121 for 110.

    A Jetson's own (7.2, 8.7, 11.0) are not among them. Of two as near, the older one.
    """
    if compute_capability > CAPABILITIES[-3]:
        # Thor's 11.0 is of the same generation as 12.x (Blackwell); 8.9 is two before it.
        return min((one for one in CAPABILITIES if one >= 120), key=lambda one: abs(one - compute_capability))
    return min(CAPABILITIES, key=lambda one: (abs(one - compute_capability), one))


def preview(
    model: ir.Model,
    capabilities: Sequence[int],
    profiles: Sequence[ShapeProfile] = (),
    *,
    target: str,
) -> Preview:
    """Parse a lowered model and build it.

    Args:
        model: the lowered model with its precision written in; plugin ops are replaced by their bodies, as
            TensorRT-RTX has no plugins.
        capabilities: compute capabilities to build for, times ten, of `CAPABILITIES`.
        profiles: shape profiles; none for a model whose shapes are all fixed.
        target: the target's name, for messages.

    Raises:
        UnsupportedError: the parser or the builder refuses something; says node, source layer and reason.
        MissingExtraError: tensorrt-rtx is not installed.
    """
    rtx = tensorrt_rtx()
    if any(node.domain == EDGEC_DOMAIN for node in model.graph.all_nodes()):
        model = model.clone()
        Pipeline([DecomposePlugins()]).run(model)
    start = time.perf_counter()
    log = _Log(rtx)
    builder = rtx.Builder(log.logger)
    network = builder.create_network(1 << int(rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = rtx.OnnxParser(network, log.logger)
    with tempfile.TemporaryDirectory(prefix="edgec-preview-") as folder:
        path = Path(folder) / "model.onnx"
        save_model(model, path)
        if not parser.parse_from_file(str(path)):
            raise UnsupportedError(
                target,
                _parser_errors(parser, model),
                fix="rewrite these layers in ops that TensorRT takes, or keep them out with --passes",
            )
        config = builder.create_builder_config()
        config.num_compute_capabilities = len(capabilities)
        for place, capability in enumerate(capabilities):
            config.set_compute_capability(getattr(rtx.ComputeCapability, f"SM{capability}"), place)
        for profile in profiles:
            ranges = builder.create_optimization_profile()
            for name, sizes in profile.inputs.items():
                ranges.set_shape(name, sizes.min, sizes.opt, sizes.max)
            config.add_optimization_profile(ranges)
        engine = builder.build_serialized_network(network, config)
        if engine is None:
            raise UnsupportedError(
                target, _builder_errors(log.errors, model), fix="rewrite these layers, or choose --precision"
            )
        return Preview(
            tool=f"tensorrt-rtx {rtx.__version__}",
            engine=bytes(engine),
            layers=network.num_layers,
            seconds=time.perf_counter() - start,
        )


def tensorrt_rtx() -> Any:
    """The tensorrt_rtx module.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import tensorrt_rtx
    except ImportError as error:
        raise MissingExtraError("tensorrt-rtx", "rtx") from error
    # Polygraphy then drives the same package, where a user inspects what edgec wrote.
    os.environ.setdefault("POLYGRAPHY_USE_TENSORRT_RTX", "1")
    return tensorrt_rtx


class _Log:
    """Keeps what TensorRT says at the level of an error; it prints it otherwise."""

    def __init__(self, rtx: Any) -> None:
        self.errors: list[str] = []
        errors = self.errors

        class Logger(rtx.ILogger):
            def __init__(self) -> None:
                rtx.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                if severity in (rtx.ILogger.Severity.ERROR, rtx.ILogger.Severity.INTERNAL_ERROR):
                    errors.append(message)

        self.logger = Logger()


def _parser_errors(parser: Any, model: ir.Model) -> list[str]:
    nodes = {node.name: node for node in model.graph.all_nodes()}
    found = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        name = error.node_name()
        node = nodes.get(name)
        layer = f" (layer {source_layer(node)})" if node is not None else ""
        reason = error.desc().strip()
        found.append(f"{error.node_operator()} {name!r}{layer}: {reason}" if name else reason)
    return list(dict.fromkeys(found)) or ["the parser refuses the model and says nothing"]


def _builder_errors(messages: Sequence[str], model: ir.Model) -> list[str]:
    """The builder's messages, with the source layers of the nodes that they name."""
    nodes = sorted(
        (node for node in model.graph if node.name), key=lambda node: len(node.name or ""), reverse=True
    )
    found = []
    for message in messages:
        named = next((node for node in nodes if node.name and node.name in message), None)
        layer = "" if named is None else f"{named.op_type} {named.name!r} (layer {source_layer(named)}): "
        found.append(f"{layer}{message.strip()}")
    return list(dict.fromkeys(found)) or ["the builder fails and says nothing"]
