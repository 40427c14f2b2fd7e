"""Which nodes the CUDA kernels take."""

from __future__ import annotations

import onnx_ir as ir

MOST_TOKENS = 2304
"""Tokens of one sample that a token kernel ranks in shared memory (`LONGEST` of token_cuda.cu)."""

MOST_SAMPLES = 65535
"""Samples or sequences of one launch: the grid's second and third extents end there."""

LARGEST_HEAD = 128
"""Head size of VarlenAttention's kernel; a multiple of `HEAD_MULTIPLE`."""

HEAD_MULTIPLE = 8

VARLEN_CAPABILITY = 80
"""Compute capability, times ten, that VarlenAttention's instructions need: asynchronous copies."""


def kernels_for(compute_capability: int, *, half: bool) -> frozenset[str]:
    """The op types that have a kernel on a device.

    Args:
        compute_capability: of the device, times ten.
        half: whether the graph is fp16; VarlenAttention has a kernel in fp16 alone.
    """
    from edgec.plugins.bindings.tensorrt import LIBRARIES

    attention = half and compute_capability >= VARLEN_CAPABILITY
    return frozenset(op for op in LIBRARIES if attention or op != "VarlenAttention")


def obstacle(node: ir.Node) -> str:
    """Why a kernel does not take a node of its op type; empty where it does.

    Sizes that decide must be known: a kernel cannot fall back when it runs.
    """
    shapes = [None if value is None or value.shape is None else list(value.shape) for value in node.inputs]
    if any(shape is None for shape in shapes):
        return "the shape of an input is not known"
    first = shapes[0]
    assert first is not None
    if len(first) != 3:
        return f"its first input has rank {len(first)}"
    if node.op_type == "VarlenAttention":
        depth = first[2]
        if not isinstance(first[1], int) or not isinstance(depth, int):
            return "its heads or their size are open"
        if depth > LARGEST_HEAD or depth % HEAD_MULTIPLE:
            return f"head size {depth}; the kernel takes multiples of {HEAD_MULTIPLE} up to {LARGEST_HEAD}"
        return ""
    batch, length, channels = first
    if not isinstance(channels, int):
        return "its channels are open"
    if isinstance(batch, int) and batch > MOST_SAMPLES:
        return f"a batch of {batch}; the kernel takes {MOST_SAMPLES}"
    if node.op_type == "TokenRestore":
        return ""
    if not isinstance(length, int):
        return "its number of tokens is open"
    if length > MOST_TOKENS:
        return f"{length} tokens; the kernel takes {MOST_TOKENS}"
    return ""
