"""From a lowered ONNX graph to TVM's Relax: heavy ops as calls of kernels, the rest by TVM's own importer."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from edgec.core.dialect import source_layer
from edgec.core.errors import JobError
from edgec.plugins.bindings.tvm import PREFIX, Entry, plugin_entries
from edgec.plugins.infra import plugins
from edgec.targets.tvm.kernels import ACTIVATIONS, ENTRIES, GEOMETRY, PANELS
from edgec.targets.tvm.quiet import quiet


class Imported:
    """A lowered graph in Relax.

    Attributes:
        module: TVM's IRModule.
        sites: the user's layer of each call, by the call's number.
    """

    def __init__(self, module: Any, sites: Sequence[str]) -> None:
        self.module = module
        self.sites = tuple(sites)


def imported(model: ir.Model, processor: str) -> Imported:
    """Import a lowered model.

    Args:
        model: static shapes, opset 11 to 23.
        processor: `x86_64` or `aarch64`, for which weights are laid out.

    Raises:
        JobError: TVM's importer does not take a node; names its layer.
    """
    importer = _importer()(model, PANELS[processor])
    proto = ir.to_proto(model)
    # TVM prints what it could not convert before it raises, and warns of every renamed input.
    with quiet(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        module = importer.from_onnx(proto.graph, model.opset_imports[""])
    return Imported(module, importer.sites)


def convertible() -> frozenset[str]:
    """The standard ops that TVM's importer or a kernel takes."""
    from tvm.relax.frontend.onnx import onnx_frontend

    known = {name for name in onnx_frontend._get_convert_map() if name[:1].isupper() and name not in _CANNOT}
    return frozenset(known | {"If", "Constant"})


_CANNOT = frozenset(
    {"Optional", "OptionalGetElement", "OptionalHasElement", "NonMaxSuppression", "NonZero", "Unique"}
)
"""Ops that TVM's importer knows and whose results have sizes that only a run tells."""


def _importer() -> type:
    from tvm import relax
    from tvm.relax.frontend.onnx.onnx_frontend import ONNXGraphImporter

    class Importer(ONNXGraphImporter):
        """TVM's importer with kernels in front of its own conversions."""

        def __init__(self, model: ir.Model, panel: int) -> None:
            super().__init__({}, "float32", False, sanitize=True)
            self.panel = panel
            self.sites: list[str] = []
            self._plugins = plugin_entries()
            self._layers = {node.name: source_layer(node) for node in model.graph.all_nodes()}
            self._converters: dict[str, Callable[..., Any]] = {
                "Linear": self._linear,
                "Convolution": self._convolution,
                "MatMul": self._product,
                "LayerNormalization": self._layer_norm,
                "RMSNormalization": self._layer_norm,
                "Softmax": self._softmax,
                **dict.fromkeys(("Gelu", "Sigmoid", "Tanh", "Exp", "Erf", "HardSwish"), self._activation),
            }
            self._op = ""
            self._node = ""

        def _check_for_unsupported_ops(self, graph: onnx.GraphProto) -> None:
            """Nothing: `obstacles` has looked, before anything was built."""

        def _convert_operator(self, op_name: str, inputs: Any, attrs: dict[str, Any], opset: int) -> Any:
            self._op, self._node = op_name, attrs["tvm_custom"]["name"]
            try:
                if op_name in self._plugins:
                    return self._plugin(inputs, attrs)
                made = self._converters[op_name](inputs, attrs) if op_name in self._converters else None
                return super()._convert_operator(op_name, inputs, attrs, opset) if made is None else made
            except Exception as error:
                # TVM raises classes of its own without a common base.
                raise JobError(
                    f"TVM cannot import {op_name} ({str(error).strip().splitlines()[-1][:200]})",
                    where=self._layers.get(self._node, self._node),
                    fix="use --target x86, or give the layer in other ops",
                ) from error

        def _call(
            self, entry: Entry, tensors: Sequence[Any], numbers: Mapping[str, int | float], types: list[Any]
        ) -> Any:
            """A call of a kernel, numbered by its site."""
            arguments = [*tensors, *map(relax.prim_value, (*entry.numbers(numbers), len(self.sites)))]
            self.sites.append(self._layers.get(self._node, self._node or self._op))
            name = f"{PREFIX}{entry.op_type}"
            return self.bb.normalize(relax.call_dps_packed(name, relax.Tuple(arguments), types))

        def _kernel(
            self, name: str, tensors: Sequence[Any], numbers: Mapping[str, int | float], shape: Sequence[int]
        ) -> Any:
            made = self._call(ENTRIES[name], tensors, numbers, [relax.TensorType(list(shape), "float32")])
            return self.bb.emit(made)

        def _plugin(self, inputs: Any, attrs: dict[str, Any]) -> Any:
            plugin, entry = plugins()[self._op], self._plugins[self._op]
            known = {
                size.name: length
                for port, value in zip(plugin.inputs, inputs, strict=True)
                for size, length in zip(port.sizes, _shape(value), strict=True)
                if size.name
            }
            values = {name: attrs.get(name, default) for name, default in plugin.attributes.items()}
            known |= {name: value for name, value in values.items() if isinstance(value, int)}
            types = [
                relax.TensorType(
                    [size.value(known) for size in port.sizes],
                    {"like the first input": _dtype(inputs[0])}.get(port.kind.value, port.kind.value),
                )
                for port in plugin.outputs
            ]
            made = self.bb.emit(self._call(entry, list(inputs), values, types))
            if len(types) == 1:
                return made
            return relax.Tuple([self.bb.emit(relax.TupleGetItem(made, place)) for place in range(len(types))])

        def _linear(self, inputs: Any, attrs: dict[str, Any]) -> Any:
            weight = inputs[1].value.numpy()
            nothing = relax.const(np.zeros(0, np.float32))
            shape = [*_shape(inputs[0])[:-1], weight.shape[1]]
            tensors = [
                inputs[0],
                relax.const(in_panels(weight, self.panel)),
                inputs[2],
                (*inputs, nothing)[3],
            ]
            numbers = {"activation": ACTIVATIONS.index(attrs["activation"].decode())}
            return self._kernel("Linear", tensors, numbers, shape)

        def _convolution(self, inputs: Any, attrs: dict[str, Any]) -> Any:
            (batch, _, *picture), (made, _, *size) = _shape(inputs[0]), _shape(inputs[1])
            top, left, bottom, right = attrs["pads"]
            strides, steps = attrs["strides"], attrs["dilations"]
            padded = [picture[0] + top + bottom, picture[1] + left + right]
            shape = [batch, made] + [
                (padded[axis] - (size[axis] - 1) * steps[axis] - 1) // strides[axis] + 1 for axis in (0, 1)
            ]
            nothing = relax.const(np.zeros(0, np.float32))
            activation = ACTIVATIONS.index(attrs["activation"].decode())
            numbers = (*strides, top, left, *steps, attrs["group"], activation)
            tensors = [*inputs[:3], (*inputs, nothing)[3]]
            return self._kernel("Convolution", tensors, dict(zip(GEOMETRY, numbers, strict=True)), shape)

        def _product(self, inputs: Any, _attrs: dict[str, Any]) -> Any:
            shapes = [_shape(value) for value in inputs]
            if min(map(len, shapes)) < 2 or any(_dtype(value) != "float32" for value in inputs):
                return None
            front = np.broadcast_shapes(*(shape[:-2] for shape in shapes))
            shape = [*front, shapes[0][-2], shapes[1][-1]]
            return self._kernel("Product", list(inputs), {"turned": 0}, shape)

        def _layer_norm(self, inputs: Any, attrs: dict[str, Any]) -> Any:
            shape = _shape(inputs[0])
            axis = attrs.get("axis", -1) % len(shape)
            bias = inputs[2] if len(inputs) > 2 else None
            size = int(np.prod(shape[axis:]))
            if _dtype(inputs[0]) != "float32" or int(np.prod(_shape(inputs[1]))) != size:
                return None
            tensors = [inputs[0], inputs[1], relax.const(np.zeros(0, np.float32)) if bias is None else bias]
            numbers = {
                "rank": len(shape) - axis,
                "epsilon": attrs.get("epsilon", 1e-5),
                "is_rms": int(self._op == "RMSNormalization"),
            }
            return self._kernel("LayerNorm", tensors, numbers, shape)

        def _softmax(self, inputs: Any, attrs: dict[str, Any]) -> Any:
            shape = _shape(inputs[0])
            if attrs.get("axis", -1) % len(shape) != len(shape) - 1 or _dtype(inputs[0]) != "float32":
                return None
            return self._kernel("Softmax", [inputs[0]], {}, shape)

        def _activation(self, inputs: Any, attrs: dict[str, Any]) -> Any:
            if _dtype(inputs[0]) != "float32":
                return None
            names = {"Gelu": "gelu", "HardSwish": "hard swish"}
            name = names.get(self._op, self._op.lower())
            if attrs.get("approximate", b"none") == b"tanh":
                name = "gelu tanh"
            return self._kernel(
                "Activation", [inputs[0]], {"kind": ACTIVATIONS.index(name)}, _shape(inputs[0])
            )

    return Importer


def _shape(value: Any) -> tuple[int, ...]:
    """The sizes of a Relax value, which are all known.

    Raises:
        ValueError: one is not.
    """
    sizes = getattr(value.ty, "shape", None)
    if sizes is None:
        raise ValueError("a size is not known when compiling")
    return tuple(int(size) for size in sizes)


def _dtype(value: Any) -> str:
    return str(value.ty.dtype)


def in_panels(weight: np.ndarray, panel: int) -> np.ndarray:
    """A weight (depth, columns) as the kernels read it: (panels, depth, panel), filled up with zeros."""
    depth, columns = weight.shape
    wide = np.zeros((depth, -(-columns // panel) * panel), np.float32)
    wide[:, :columns] = weight
    return np.ascontiguousarray(wide.reshape(depth, -1, panel).transpose(1, 0, 2))
