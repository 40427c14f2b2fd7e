"""What an ONNX file asks for, by its own words, held against the limits before anything is done with it.

A few hundred bytes can ask for more than a machine has: functions that call each other twice in each body
double the graph at every level, and one small constant says how large a tensor is to be.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common

from edgec.core.dialect import EDGEC_DOMAIN
from edgec.core.errors import RequestError
from edgec.core.graph import TensorSpec
from edgec.core.limits import limit, over
from edgec.frontends.finish import set_input_shapes

_Key = tuple[str, str, str]

_BROKEN = "export the model again; this file is broken"


@dataclasses.dataclass(frozen=True)
class _Size:
    """What a graph or a function's body becomes once its calls are inlined."""

    nodes: int = 0
    calls: int = 0
    depth: int = 0

    def __add__(self, other: _Size) -> _Size:
        return _Size(self.nodes + other.nodes, self.calls + other.calls, max(self.depth, other.depth))


def check_size(model: onnx.ModelProto, where: str) -> None:
    """Count what the file becomes once its functions are inlined.

    Raises:
        RequestError: a function calls itself, or it becomes more than the limits allow.
    """
    functions = {(f.domain, f.name, f.overload): f for f in model.functions if f.domain != EDGEC_DOMAIN}
    sizes: dict[_Key, _Size] = {}
    for start in functions:
        _measure(start, functions, sizes, where)
    for size in (_size(model.graph.node, functions, sizes), *sizes.values()):
        if size.calls > limit("function_calls"):
            raise over("function_calls", f"its functions are called {size.calls} times in all", where=where)
        if size.nodes > limit("nodes"):
            raise over("nodes", f"it has {size.nodes} nodes with its functions inlined", where=where)
        if size.depth > limit("nesting"):
            raise over("nesting", f"its functions call each other {size.depth} deep", where=where)


def _measure(
    start: _Key, functions: dict[_Key, onnx.FunctionProto], sizes: dict[_Key, _Size], where: str
) -> None:
    """Sizes of a function and of all that it calls: those that are called first, without recursion."""
    path: list[_Key] = []
    pending: list[tuple[_Key, bool]] = [(start, False)]
    while pending:
        key, is_done = pending.pop()
        if is_done:
            path.pop()
            sizes[key] = _size(functions[key].node, functions, sizes)
            continue
        if key in sizes:
            continue
        if key in path:
            names = " -> ".join(name for _, name, _ in [*path[path.index(key) :], key])
            raise RequestError(f"the function {key[1]!r} calls itself ({names})", where=where, fix=_BROKEN)
        path.append(key)
        pending.append((key, True))
        called = {_key(node) for node in nodes_of(functions[key].node)}
        pending.extend((other, False) for other in called if other in functions)


def _size(
    nodes: Iterable[onnx.NodeProto],
    functions: dict[_Key, onnx.FunctionProto],
    sizes: dict[_Key, _Size],
) -> _Size:
    whole = _Size()
    for node in nodes_of(nodes):
        key = _key(node)
        if key in functions:
            body = sizes[key]
            whole += _Size(body.nodes, body.calls + 1, body.depth + 1)
        else:
            whole += _Size(nodes=1)
    return whole


def _key(node: onnx.NodeProto) -> _Key:
    return node.domain, node.op_type, node.overload


def nodes_of(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Nodes and those of their subgraphs. A protobuf ends its nesting at 100, which is 33 graphs."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                yield from nodes_of(graph.node)


def check_tensor(tensor: onnx.TensorProto, where: str) -> None:
    """Hold a stored tensor's own words against each other.

    Raises:
        RequestError: it has no type or a negative size, or has more or less data than its shape says.
    """
    name = tensor.name or "of a node"
    try:
        onnx.helper.tensor_dtype_to_field(tensor.data_type)
    except (ValueError, KeyError) as error:
        raise RequestError(
            f"the tensor {name!r} has the type {tensor.data_type}, which ONNX does not have",
            where=where,
            fix=_BROKEN,
        ) from error
    if any(size < 0 for size in tensor.dims):
        raise RequestError(f"the tensor {name!r} has a negative size", where=where, fix=_BROKEN)
    count = math.prod(tensor.dims)
    size = stored_bytes(tensor)
    held = _held(tensor, count, size)
    if held is not None:
        raise RequestError(
            f"the tensor {name!r} holds {held}, and not what its shape {list(tensor.dims)} says",
            where=where,
            fix=_BROKEN,
        )


def stored_bytes(tensor: onnx.TensorProto) -> int:
    """Bytes that a tensor's type and shape stand for; 0 for text."""
    dtype = ir.DataType(tensor.data_type)
    return 0 if dtype == ir.DataType.STRING else (math.prod(tensor.dims) * dtype.bitwidth + 7) // 8


def _held(tensor: onnx.TensorProto, count: int, size: int) -> str | None:
    """What a tensor holds where that is not what it should; external data is not looked at here."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return None
    if tensor.HasField("raw_data"):
        return None if len(tensor.raw_data) == size else f"{len(tensor.raw_data)} bytes"
    field = onnx.helper.tensor_dtype_to_field(tensor.data_type)
    values = len(getattr(tensor, field))
    kind = tensor.data_type
    if kind in (onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128):
        wanted = 2 * count
    elif kind in (onnx.TensorProto.INT4, onnx.TensorProto.UINT4, onnx.TensorProto.FLOAT4E2M1):
        wanted = (count + 1) // 2  # two in one number
    else:
        wanted = count
    is_packed = tensor.data_type > onnx.TensorProto.FLOAT4E2M1
    return None if is_packed or values == wanted else f"{values} values"


def check_values(model: ir.Model, inputs: Sequence[TensorSpec], where: str) -> None:
    """Infer what shapes the graph's values will have, constants carried along, and hold them to the limit.

    Args:
        model: a model whose functions are inlined; it is left as it is.
        inputs: the inputs as they will be fed.
        where: the file, for messages.

    Raises:
        RequestError: a value is over the limit.
    """
    for spec in inputs:
        size = math.prod(size for size in spec.shape if isinstance(size, int)) * np.dtype(spec.dtype).itemsize
        if size > limit("tensor_bytes"):
            raise over("tensor_bytes", f"the input {spec.name!r} has {size} bytes", where=where)
    inferred = model.clone()
    set_input_shapes(inferred, inputs)
    ir.passes.common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(inferred)
    for node in inferred.graph.all_nodes():
        for value in node.outputs:
            if value.shape is None or value.dtype is None or value.dtype == ir.DataType.STRING:
                continue
            sizes = [size for size in value.shape if isinstance(size, int)]
            needed = math.prod(sizes) * value.dtype.bitwidth // 8
            if needed > limit("tensor_bytes"):
                raise over(
                    "tensor_bytes",
                    f"node {node.name or value.name!r} ({node.op_type}) makes a tensor of {needed} bytes",
                    where=where,
                )
