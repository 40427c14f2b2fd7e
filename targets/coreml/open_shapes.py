"""Open sizes: what an exporter computes at run time and shape inference knows already.

    Shape ─ Slice ─ Concat(-1, ·, 8) ─ Reshape(x, ·)        ->        Reshape(x, [4, -1, 8])

An exporter that keeps a size open computes every target shape from `Shape`. Where all but one size of a
result are known, the shape is a constant with one -1, and the passes and the lowering see through it.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from edgec.core.dialect import is_op


def settled(model: ir.Model) -> ir.Model:
    """A copy of the model with every shape that inference knows written as a constant."""
    copy = model.clone()
    for _ in range(4):
        common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(copy)
        if not sum(_settle(copy, node, index) for index, node in enumerate(list(copy.graph))):
            break
    common.RemoveUnusedNodesPass()(copy)
    return copy


def _settle(model: ir.Model, node: ir.Node, index: int) -> bool:
    if not is_op(node, "Reshape") or len(node.inputs) < 2:
        return False
    wanted, result = node.inputs[1], node.outputs[0]
    if wanted is None or wanted.const_value is not None or result.shape is None:
        return False
    sizes = [size if isinstance(size, int) else -1 for size in result.shape]
    if sizes.count(-1) > 1 or 0 in sizes:
        return False
    name = f"{node.name or index}_settled_shape"
    constant = ir.Value(name=name, const_value=ir.tensor(np.array(sizes, np.int64)))
    constant.shape, constant.dtype = ir.Shape([len(sizes)]), ir.DataType.INT64
    model.graph.register_initializer(constant)
    node.replace_input_with(1, constant)
    node.attributes.pop("allowzero", None)
    return True
