"""Ops that say in one node what ONNX needs a transpose for; each is defined in standard ops."""

from __future__ import annotations

import numpy as np
import onnx.parser
import onnx_ir as ir

from edgec.core.dialect import ONNX_OPSET
from edgec.targets.coreml.lowering.site import Operand, Site, dtype_of, shape_of
from edgec.targets.coreml.lowering.table import lowers

DOMAIN = "ai.edgec.coreml"
VERSION = 1

_HEADER = f'<opset_import: ["" : {ONNX_OPSET}], domain: "{DOMAIN}">'

_DEFINITIONS = (
    f"""{_HEADER}
    ChannelNorm <epsilon> (x, scale, bias) => (y)
    {{
        axis = Constant <value_ints: ints = [1]> ()
        mean = ReduceMean <keepdims: int = 1> (x, axis)
        centred = Sub (x, mean)
        squares = Mul (centred, centred)
        variance = ReduceMean <keepdims: int = 1> (squares, axis)
        small = Constant <value_float: float = @epsilon> ()
        safe = Add (variance, small)
        deviation = Sqrt (safe)
        normal = Div (centred, deviation)
        column = Constant <value_ints: ints = [1, -1, 1, 1]> ()
        scale_column = Reshape (scale, column)
        bias_column = Reshape (bias, column)
        scaled = Mul (normal, scale_column)
        y = Add (scaled, bias_column)
    }}""",
    f"""{_HEADER}
    ChannelRMSNorm <epsilon> (x, scale) => (y)
    {{
        axis = Constant <value_ints: ints = [1]> ()
        squares = Mul (x, x)
        mean = ReduceMean <keepdims: int = 1> (squares, axis)
        small = Constant <value_float: float = @epsilon> ()
        safe = Add (mean, small)
        root = Sqrt (safe)
        normal = Div (x, root)
        column = Constant <value_ints: ints = [1, -1, 1, 1]> ()
        scale_column = Reshape (scale, column)
        y = Mul (normal, scale_column)
    }}""",
    f"""{_HEADER}
    LeftTransposedMatMul (a, b) => (y)
    {{
        left = Transpose <perm: ints = [0, 1, 3, 2]> (a)
        y = MatMul (left, b)
    }}""",
    f"""{_HEADER}
    RightTransposedMatMul (a, b) => (y)
    {{
        right = Transpose <perm: ints = [0, 1, 3, 2]> (b)
        y = MatMul (a, right)
    }}""",
)


def add_definitions(model: ir.Model) -> None:
    """Add the definitions of the ops that the model uses."""
    used = {node.op_type for node in model.graph if node.domain == DOMAIN}
    if not used:
        return
    model.opset_imports[DOMAIN] = VERSION
    for text in _DEFINITIONS:
        proto = onnx.parser.parse_function(text)
        if proto.name in used:
            function = ir.from_proto(proto)
            assert isinstance(function, ir.Function)
            model.functions[function.identifier()] = function


@lowers("ChannelNorm", domain=DOMAIN)
def channel_norm(site: Site) -> Operand:
    """`layer_norm` over axis 1 of (B, C, 1, S)."""
    return site.emit(
        "layer_norm",
        x=site.operand(0),
        axes=[1],
        gamma=site.constant(1, "scale"),
        beta=site.constant(2, "bias"),
        epsilon=dtype_of(site.operand(0)).type(site.attribute("epsilon", 1e-5)),
    )


@lowers("LeftTransposedMatMul", domain=DOMAIN)
def left_transposed(site: Site) -> Operand:
    """Aᵀ · B by a flag of `matmul`."""
    x, y = site.operand(0), site.operand(1)
    return site.emit("matmul", x=x, y=y, transpose_x=True, transpose_y=False)


@lowers("RightTransposedMatMul", domain=DOMAIN)
def right_transposed(site: Site) -> Operand:
    """A · Bᵀ by a flag of `matmul`."""
    return site.matmul(site.operand(0), site.operand(1), transpose_y=True)


@lowers("ChannelRMSNorm", domain=DOMAIN)
def channel_rms_norm(site: Site) -> Operand:
    """The first half of `layer_norm` over [x, -x], whose variance is mean(x²): no square leaves fp16."""
    x = site.operand(0)
    sizes = list(shape_of(x))
    both = site.emit("concat", values=[x, site.emit("mul", x=x, y=site.like(x, -1))], axis=1)
    epsilon = dtype_of(x).type(site.attribute("epsilon", 1e-5))
    normal = site.emit("layer_norm", x=both, axes=[1], epsilon=epsilon)
    half = site.emit("slice_by_size", x=normal, begin=np.zeros(4, np.int32), size=np.array(sizes, np.int32))
    scale = site.constant(1, "scale").reshape(1, -1, 1, 1)
    return site.emit("mul", x=half, y=scale)
