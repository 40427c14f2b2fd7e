"""Kernels of standard ops for TVM: what its own loops are too slow for before they are tuned."""

from __future__ import annotations

from pathlib import Path

from edgec.plugins.bindings.tvm import Entry
from edgec.plugins.infra import CpuKernel

_HERE = Path(__file__).parent

ACTIVATIONS = (
    "none",
    "relu",
    "gelu",
    "gelu tanh",
    "silu",
    "sigmoid",
    "tanh",
    "hard swish",
    "hard sigmoid",
    "relu6",
    "exp",
    "erf",
)
"""In the order of `enum Activation` in functions.h."""

PANELS = {"x86_64": 32, "aarch64": 8}
"""`PANEL` of gemm.h by processor: columns of a weight that lie side by side."""


GEOMETRY = (
    "down",
    "right",
    "top",
    "left",
    "down_step",
    "right_step",
    "groups",
    "activation",
)
"""Attributes of the kernel `Convolution`: strides, padding in front, dilations."""


def _kernel(file: str) -> CpuKernel:
    return CpuKernel(_HERE / file, vectorised=True)


ENTRIES = {
    entry.op_type: entry
    for entry in (
        Entry("Linear", _kernel("linear.cpp"), 4, 1, {"activation": False}),
        Entry("Convolution", _kernel("convolution.cpp"), 4, 1, dict.fromkeys(GEOMETRY, False)),
        Entry("Product", _kernel("product.cpp"), 2, 1, {"turned": False}),
        Entry("LayerNorm", _kernel("rows.cpp"), 3, 1, {"rank": False, "epsilon": True, "is_rms": False}),
        Entry("Softmax", _kernel("rows.cpp"), 1, 1, {}),
        Entry("Activation", _kernel("rows.cpp"), 1, 1, {"kind": False}),
    )
}
"""By the kernel's name."""
