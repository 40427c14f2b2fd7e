"""Ops that ONNX Runtime runs in files of an older opset only.

Opset 22 took more types into many ops and left their meaning alone. ONNX Runtime has a kernel of the new
version for most, and for these only the old one: a file that says an older opset finds it.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir

_OPS = frozenset({"GlobalLpPool", "MaxRoiPool", "RoiAlign"})

_OPSET = 21
"""The newest opset whose versions of these ops have kernels; no op of it means something else in opset 23."""


def for_onnxruntime(model: ir.Model) -> ir.Model:
    """The model as ONNX Runtime takes it: a copy of an older opset where an op needs that, else itself.

    A model that also holds what came after that opset (`Attention`) is left as it is; ONNX Runtime then
    names the op that it cannot run.
    """
    nodes = [node for node in model.graph.all_nodes() if node.domain == ""]
    newer = model.opset_imports.get("", 0) > _OPSET and any(node.op_type in _OPS for node in nodes)
    if not newer or model.functions or not all(_is_known(node) for node in nodes):
        return model
    copy = model.clone()
    copy.opset_imports[""] = _OPSET
    return copy


def _is_known(node: ir.Node) -> bool:
    if not onnx.defs.has(node.op_type, _OPSET, ""):
        return False
    return set(node.attributes) <= set(onnx.defs.get_schema(node.op_type, _OPSET, "").attributes)
