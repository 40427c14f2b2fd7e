"""AffineGrid in ops that TensorRT's parser knows: a product with the places of the pixels."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import ONNX_OPSET


def affine_grid(node: ir.Node) -> ir.Graph | None:
    """The op's body for a size that is known; None for any other node.

    ::

        theta ── AffineGrid(size) ── y   ⇒   theta ── Transpose ── MatMul(places, ·) ── Reshape ── y

    ONNX defines the op by branches between two and three axes, which would be left to the device.
    """
    if node.op_type != "AffineGrid":
        return None
    theta, held = node.inputs[0], node.inputs[1]
    tensor = None if held is None else ir.convenience.get_const_tensor(held)
    if theta is None or held is None or tensor is None:
        return None
    size = [int(one) for one in tensor.numpy()]
    corners = node.attributes.get_int("align_corners", 0) == 1
    if corners and 1 in size[2:]:
        return None  # one pixel has no two corners: ONNX Runtime and torch put it at different places
    axes = []
    for length in size[2:]:
        steps = np.arange(length, dtype=np.float64)
        axes.append(steps / (length - 1) * 2 - 1 if corners else (2 * steps + 1) / length - 1)
    # The last axis of the picture is the first coordinate.
    places = [axis.reshape(-1) for axis in np.meshgrid(*axes, indexing="ij")][::-1]
    base = np.stack([*places, np.ones_like(places[0])], -1).astype(np.float32)[None]

    inputs = [
        ir.Value(name=name, type=value.type, shape=value.shape)
        for name, value in (("theta", theta), ("size", held))
    ]
    shape = np.array([size[0], *size[2:], len(places)], np.int64)
    initializers = [_constant("places", base), _constant("shape", shape)]
    columns = ir.node("Transpose", [inputs[0]], {"perm": [0, 2, 1]})
    product = ir.node("MatMul", [initializers[0], columns.outputs[0]])
    grid = ir.node("Reshape", [product.outputs[0], initializers[1]])
    sizes = ([size[0], len(places) + 1, len(places)], [size[0], base.shape[1], len(places)], shape.tolist())
    for made, dims in zip((columns, product, grid), sizes, strict=True):
        made.outputs[0].type, made.outputs[0].shape = theta.type, ir.Shape(dims)
    return ir.Graph(
        inputs,
        grid.outputs,
        nodes=[columns, product, grid],
        initializers=initializers,
        opset_imports={"": ONNX_OPSET},
        name="definition",
    )


def _constant(name: str, array: np.ndarray) -> ir.Value:
    return ir.Value(
        name=name,
        type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
        shape=ir.Shape(array.shape),
        const_value=ir.tensor(array, name=name),
    )
