"""What a lowering function works with: one ONNX node, its operands, and the MIL program being built."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edgec.core.dialect import source_layer
from edgec.targets.coreml.lowering.full import scoped
from edgec.targets.coreml.versions import Release

Operand = Any
"""A MIL variable, or a numpy array for what is known while lowering."""

INT32 = np.iinfo(np.int32)


MAX_RANK = 5
"""Axes that a tensor of Core ML can have."""


@dataclasses.dataclass(frozen=True)
class Folded:
    """A value whose rank Core ML lacks, as a view of one that it has.

    Attributes:
        held: the tensor that holds the elements, of any shape.
        before: the sizes that its elements are seen in, in the order they lie in.
        order: the permutation of those axes that the value is.
    """

    held: Operand
    before: tuple[int, ...]
    order: tuple[int, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """The value's shape."""
        return tuple(self.before[axis] for axis in self.order)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the tensor that holds it: what the program sees."""
        return tuple(self.held.shape)


class Refusal(Exception):  # noqa: N818 (a refusal is an answer, not a failure)
    """A node that has no form in MIL, with the reason and what would help."""

    def __init__(self, reason: str, fix: str = "") -> None:
        self.reason = reason
        self.fix = fix
        super().__init__(f"{reason}; {fix}" if fix else reason)


_RESERVED = frozenset(
    {
        "any", "bf16", "bool", "dict", "false", "fp16", "fp32", "fp64", "func", "int16", "int32", "int64",
        "int8", "list", "program", "state", "string", "tensor", "true", "tuple", "uint16", "uint32", "uint64",
        "uint8",
    }
)  # fmt: skip
"""Words of MIL's own text (coremltools' `NameSanitizer`, which would rename an input unasked)."""


def sanitized(name: str) -> str:
    """A name that Core ML takes: letters, digits and underscores, no digit in front, no word of MIL."""
    text = re.sub(r"\W", "_", name, flags=re.ASCII) or "_"
    if text in _RESERVED:
        return f"{text}_"
    return f"_{text}" if text[0].isdigit() else text


def narrowed(array: np.ndarray, what: str) -> np.ndarray:
    """The array in a type that MIL has.

    Raises:
        Refusal: float64, text or complex values, or an integer beyond int32.
    """
    if array.dtype == np.bool_ or array.dtype in (np.float16, np.float32, np.int32):
        return array
    if np.issubdtype(array.dtype, np.integer):
        return _narrowed_integers(array, what)
    if array.dtype == np.float64:
        raise Refusal(f"{what} is float64, which Core ML lacks", "export the model in float32")
    if array.dtype.name == "bfloat16":
        return array.astype(np.float32)
    raise Refusal(f"{what} has type {array.dtype}, which Core ML lacks")


def _narrowed_integers(array: np.ndarray, what: str) -> np.ndarray:
    if array.size == 0:
        return array.astype(np.int32)
    low, high = int(array.min()), int(array.max())
    # The largest int64 values are ONNX's way to say "to the end"; slicing handles them before this.
    if low < INT32.min or high > INT32.max:
        raise Refusal(f"{what} holds {high if high > INT32.max else low}, which does not fit int32")
    return array.astype(np.int32)


class Site:
    """One node on its way into MIL.

    Attributes:
        node: the ONNX node.
        release: what the package is built for.
    """

    def __init__(
        self, node: ir.Node, operands: Sequence[Operand | None], release: Release, stem: str, builder: Any
    ) -> None:
        self.node = node
        self.release = release
        self._operands = list(operands)
        self._stem = stem
        self._builder = builder
        self._counts: dict[str, int] = {}

    # What the node says

    @property
    def op(self) -> str:
        """The ONNX op type."""
        return self.node.op_type

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute's Python value, or the default."""
        found = self.node.attributes.get(name)
        if found is None or found.value is None:
            return default
        if isinstance(found.value, bytes):
            return found.value.decode()
        return found.value

    def has(self, index: int) -> bool:
        """Whether the input is given."""
        return index < len(self._operands) and self._operands[index] is not None

    def raw(self, index: int) -> Operand:
        """The input as it is: a MIL variable or an array in its ONNX type."""
        if not self.has(index):
            raise Refusal(f"input {index} is missing")
        return self._operands[index]

    def operand(self, index: int) -> Operand:
        """The input, in a type that MIL has."""
        value = self.raw(index)
        if isinstance(value, Folded):
            raise Refusal(
                f"its input {index} has rank {len(value.sizes)}, and Core ML stops at {MAX_RANK}",
                f"fold axes until none of its tensors has more than {MAX_RANK}",
            )
        return narrowed(value, f"input {index}") if isinstance(value, np.ndarray) else value

    def optional(self, index: int) -> Operand | None:
        """The input, or None where it is not given."""
        return self.operand(index) if self.has(index) else None

    def raw_operands(self) -> list[Operand | None]:
        """All inputs as they are, None where one is not given."""
        return list(self._operands)

    def with_operands(self, operands: Sequence[Operand | None]) -> Site:
        """The same node with other inputs."""
        other = copy.copy(self)
        other._operands = list(operands)
        return other

    def operands(self) -> list[Operand]:
        """All inputs that are given."""
        return [self.operand(index) for index in range(len(self._operands)) if self.has(index)]

    def constant(self, index: int, what: str) -> np.ndarray:
        """The input's array, in its ONNX type.

        Raises:
            Refusal: it is computed from the model's inputs.
        """
        value = self.raw(index)
        if isinstance(value, np.ndarray):
            return value
        if getattr(value, "val", None) is not None:
            return np.asarray(value.val)
        raise Refusal(f"{what} is computed at run time", "fix it to a constant before the export")

    def optional_constant(self, index: int, what: str) -> np.ndarray | None:
        """The input's array, or None where it is not given."""
        return self.constant(index, what) if self.has(index) else None

    def output_used(self, index: int) -> bool:
        """Whether anyone reads the output."""
        if index >= len(self.node.outputs):
            return False
        value = self.node.outputs[index]
        return bool(value.name) and (bool(value.uses()) or value.is_graph_output())

    def refuse_outputs(self, first: int, what: str) -> None:
        """Refuse the node if it is asked for an output from `first` on."""
        for index in range(first, len(self.node.outputs)):
            if self.output_used(index):
                raise Refusal(f"{what} (output {index}) is not available in Core ML")

    # Building

    def name(self, hint: str) -> str:
        """A name for a new MIL op that leads back to the source layer."""
        count = self._counts.get(hint, 0)
        self._counts[hint] = count + 1
        return f"{self._stem}_{hint}" + (f"_{count}" if count else "")

    def emit(self, mil_op: str, **arguments: Any) -> Any:
        """Add a MIL op.

        Raises:
            Refusal: coremltools rejects it; with its words.
        """
        ready = {key: _argument(value, key) for key, value in arguments.items() if value is not None}
        try:
            return getattr(self._builder, mil_op)(name=self.name(mil_op), **ready)
        except (
            ValueError,
            TypeError,
            IndexError,
            AssertionError,
            NotImplementedError,
            AttributeError,
        ) as error:
            words = " ".join(str(error).split())[:300]
            raise Refusal(f"MIL op {mil_op} does not take it ({words})") from error

    def floating(self, value: Operand) -> Operand:
        """The value as float: integers become fp32."""
        if isinstance(value, np.ndarray):
            return value if value.dtype.kind == "f" else value.astype(np.float32)
        if dtype_of(value).kind == "f":
            return value
        return self.emit("cast", x=value, dtype="fp32")

    def cast(self, value: Operand, dtype: np.dtype | type) -> Operand:
        """The value in another type; nothing is added where it already has it."""
        dtype = np.dtype(dtype)
        if dtype_of(value) == dtype:
            return value
        if isinstance(value, np.ndarray):
            return value.astype(dtype)
        return self.emit("cast", x=value, dtype=MIL_NAMES[dtype.name])

    def in_float(self, mil_op: str, x: Operand, **arguments: Any) -> Operand:
        """A MIL op that knows only floats, for integers too: cast there and back (exact below 2**24)."""
        dtype = dtype_of(x)
        if dtype.kind == "f":
            return self.emit(mil_op, x=x, **arguments)
        return self.cast(self.emit(mil_op, x=self.floating(x), **arguments), dtype)

    def full(self) -> contextlib.AbstractContextManager[Any]:
        """Within it, operations stay in fp32 in an fp16 program."""
        return scoped(self._builder, True)

    def like(self, value: Operand, number: float) -> np.ndarray:
        """A scalar of the value's type."""
        return np.array(number, dtype=dtype_of(value))

    def reshape(self, x: Operand, shape: Sequence[int]) -> Operand:
        """The value in another shape; nothing is added where it already has it."""
        if isinstance(x, np.ndarray):
            return x.reshape([int(size) for size in shape])
        if is_fixed(x) and tuple(x.shape) == tuple(shape):
            return x
        return self.emit("reshape", x=x, shape=np.array(shape, np.int32))

    def transpose(self, x: Operand, perm: Sequence[int]) -> Operand:
        """The value with its axes permuted; nothing is added for the identity."""
        if list(perm) == list(range(len(perm))):
            return x
        if isinstance(x, np.ndarray):
            return x.transpose(perm)
        return self.emit("transpose", x=x, perm=np.array(perm, np.int32))

    def select(self, *, cond: Operand, a: Operand, b: Operand) -> Operand:
        """`a` where the condition holds, `b` elsewhere, with numpy's broadcasting.

        MIL takes the result's shape from `a` and `b` alone, so one of them is brought to it first.
        """
        whole = broadcast_shape([shape_of(value) for value in (cond, a, b)])
        if broadcast_shape([shape_of(a), shape_of(b)]) != whole:
            if isinstance(b, np.ndarray):
                b = np.broadcast_to(b, whole)
            elif isinstance(a, np.ndarray):
                a = np.broadcast_to(a, whole)
            elif dtype_of(a) == np.bool_:
                a = self.emit("logical_or", x=a, y=np.zeros(whole, bool))
            else:
                a = self.emit("add", x=a, y=np.zeros(whole, dtype_of(a)))
        return self.emit("select", cond=cond, a=a, b=b)

    def matmul(self, x: Operand, y: Operand, *, transpose_y: bool = False) -> Operand:
        """Matrix product of operands of rank 2 and more."""
        return self.emit("matmul", x=x, y=y, transpose_x=False, transpose_y=transpose_y)


MIL_NAMES = {
    "float32": "fp32",
    "float16": "fp16",
    "int32": "int32",
    "bool": "bool",
    "int8": "int8",
    "uint8": "uint8",
}

_CONSTANT_NAMES = {"fp32": "float32", "fp16": "float16", "fp64": "float64"}


def dtype_of(value: Operand) -> np.dtype:
    """The numpy type of an operand."""
    if isinstance(value, np.ndarray):
        return value.dtype
    from coremltools.converters.mil.mil import types

    name = types.builtin_to_string(value.dtype)
    return np.dtype(_CONSTANT_NAMES.get(name, name))


def shape_of(value: Operand) -> tuple[int, ...]:
    """The operand's sizes.

    Raises:
        Refusal: a size is open.
    """
    sizes = tuple(value.shape)
    if not all(isinstance(size, (int, np.integer)) for size in sizes):
        raise Refusal("its shape is open", "give the model fixed input shapes")
    return tuple(int(size) for size in sizes)


def sizes_of(value: Operand) -> tuple[Any, ...]:
    """The operand's sizes; an open one is coremltools' symbol of it."""
    return tuple(int(size) if isinstance(size, (int, np.integer)) else size for size in value.shape)


def is_fixed(value: Operand) -> bool:
    """Whether every size of the operand is known."""
    return all(isinstance(size, (int, np.integer)) for size in value.shape)


def rank_of(value: Operand) -> int:
    """How many axes the operand has."""
    return len(value.shape)


def positive_axis(axis: int, rank: int) -> int:
    """The axis counted from the front.

    Raises:
        Refusal: there is no such axis.
    """
    if not -max(rank, 1) <= axis < max(rank, 1):
        raise Refusal(f"axis {axis} does not exist in rank {rank}")
    return axis + rank if axis < 0 else axis


def _argument(value: Any, key: str) -> Any:
    if isinstance(value, np.ndarray):
        value = narrowed(value, key)
        # A 0-d array is a scalar to MIL; transposed views would be stored in the wrong order.
        return value[()] if value.ndim == 0 else np.ascontiguousarray(value)
    if isinstance(value, (list, tuple)):
        return [_argument(item, key) for item in value]
    return value


def broadcast_shape(shapes: Iterable[Sequence[int]]) -> tuple[int, ...]:
    """The common shape by numpy's rules."""
    return tuple(np.broadcast_shapes(*(tuple(shape) for shape in shapes)))


Rule = Callable[[Site], Any]
"""Lowers a node: returns its output, or a list of its outputs in order."""


def layer_of(node: ir.Node) -> str:
    """The source layer of a node, as it is written in reasons."""
    return source_layer(node)
