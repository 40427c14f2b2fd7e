"""The kernels for processors as an OpenVINO extension."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path

from edgec.core.errors import JobError, MissingExtraError
from edgec.plugins.bindings.schema import schema
from edgec.plugins.infra import Kind, Plugin
from edgec.plugins.kernels.cpu.build import INCLUDE, Unit, kernel_units, library, with_cpu_kernels

_HERE = Path(__file__).parent


def ops() -> frozenset[str]:
    """The ops of `ai.edgec` that the extension implements: all that have a kernel for processors."""
    return frozenset(plugin.op_type for plugin in with_cpu_kernels())


def kernel_inputs(type_: str) -> dict[str, tuple[int, ...]]:
    """Of each op whose kernel takes a type, `bfloat16`: the places of the inputs that may be of it."""
    return {
        plugin.op_type: tuple(
            place for place, port in enumerate(plugin.inputs) if port.kind is Kind.LIKE_FIRST
        )
        for plugin in with_cpu_kernels()
        if type_ in plugin.kernels["cpu"].types
    }


def openvino_library(chosen: Iterable[Plugin] | None = None) -> Path:
    """The OpenVINO extension for `core.add_extension`; compiled at the first call, in some seconds.

    It links to OpenVINO by library name alone, so it can be copied beside a model and loaded wherever the
    same OpenVINO release is installed.

    Args:
        chosen: the plugins; all where None.

    Raises:
        MissingExtraError: OpenVINO is not installed.
        JobError: no compiler, or it failed.
    """
    spec = importlib.util.find_spec("openvino")
    if spec is None or spec.origin is None:
        raise MissingExtraError("openvino", "openvino")
    root = Path(spec.origin).parent
    libraries = [_one(root / "libs", name) for name in ("openvino", "openvino_onnx_frontend", "tbb")]
    include = (f"-isystem{root / 'include'}", *INCLUDE, f"-I{_HERE}", f"-I{_HERE.parent}")
    with_kernels = with_cpu_kernels(chosen)
    return library(
        "edgec_openvino",
        [*kernel_units(with_kernels), Unit("extension", _extension(with_kernels), include)],
        [str(path) for path in libraries],
        salt=importlib.metadata.version("openvino") + _headers(),
    )


def _headers() -> str:
    """What the generated unit includes from this room."""
    return "".join((folder / name).read_text(encoding="utf-8") for folder, name in _INCLUDED)


_INCLUDED = ((_HERE, "kernel_op.hpp"), (_HERE.parent, "schema.hpp"))


def _extension(chosen: Sequence[Plugin]) -> str:
    lines = ['#include "kernel_op.hpp"', 'extern "C" {']
    for plugin in chosen:
        lines.append(f"int edgec_{plugin.op_type}(const edgec_cpu_call*);")
        if plugin.open_size is not None:
            lines.append(f"int64_t edgec_{plugin.op_type}_open_size(const edgec_cpu_call*);")
    lines += ["}", "namespace edgec {", "namespace {"]
    for plugin in chosen:
        entry = f"edgec_{plugin.op_type}"
        lines += [
            f"struct {plugin.op_type} {{",
            "static const Schema& schema() {",
            f"static const Schema made{schema(plugin, plugin.kernels['cpu'].types)};",
            "return made;",
            "}",
            f"static constexpr edgec_cpu_entry run = {entry};",
            "static constexpr int64_t (*open_size)(const edgec_cpu_call*) = "
            f"{f'{entry}_open_size' if plugin.open_size is not None else 'nullptr'};",
            "};",
        ]
    calls = [f"extend<{plugin.op_type}>(made);" for plugin in chosen]
    lines += [
        "std::vector<ov::Extension::Ptr> extensions() {",
        "std::vector<ov::Extension::Ptr> made;",
        *calls,
        "return made;",
        "}",
        "}  // namespace",
        "}  // namespace edgec",
        "OPENVINO_CREATE_EXTENSIONS(edgec::extensions());",
        "",
    ]
    return "\n".join(lines)


def _one(folder: Path, name: str) -> Path:
    found = sorted(folder.glob(f"lib{name}.so.*"))
    if not found:
        raise JobError(
            f"the installed OpenVINO has no lib{name}.so",
            where=str(folder),
            fix="install openvino from PyPI, whose wheel ships headers and libraries",
        )
    return found[0]
