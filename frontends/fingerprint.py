"""The hash that names a model: its structure and its weights, whatever file they came in."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import SOURCE_KEY


def fingerprint(model: ir.Model) -> str:
    """The sha256 of a model's structure and weights, in hexadecimal.

    Weights are read one tensor at a time, so that mapped files larger than memory can be hashed.
    """
    digest = hashlib.sha256()

    def add(*parts: object) -> None:
        digest.update("\x1f".join(str(part) for part in parts).encode() + b"\x1e")

    add("opsets", sorted(model.opset_imports.items()))
    for graph in model.graphs():
        add("graph", [(v.name, v.dtype, v.shape) for v in graph.inputs], [v.name for v in graph.outputs])
        for name, value in sorted(graph.initializers.items()):
            tensor = value.const_value
            if tensor is not None:
                add("initializer", name)
                _add_tensor(digest, tensor)
        for node in graph:
            add(
                node.domain,
                node.op_type,
                node.metadata_props.get(SOURCE_KEY),
                [None if value is None else value.name for value in node.inputs],
                [value.name for value in node.outputs],
            )
            for name, attribute in sorted(node.attributes.items()):
                add(name, attribute.type)
                if attribute.type == ir.AttributeType.TENSOR:
                    _add_tensor(digest, attribute.as_tensor())
                elif attribute.type not in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
                    add(attribute.value)
    return digest.hexdigest()


def _add_tensor(digest: hashlib._Hash, tensor: ir.TensorProtocol) -> None:
    digest.update(f"{tensor.dtype} {list(tensor.shape.numpy())}".encode())
    if tensor.dtype == ir.DataType.STRING:
        digest.update(repr(tensor.numpy().tolist()).encode())
        return
    array = tensor.numpy()
    if array.dtype.itemsize * array.size == tensor.nbytes:
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    else:
        digest.update(tensor.tobytes())
