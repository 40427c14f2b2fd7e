"""What a plugin is: an op of the `ai.edgec` domain defined by an ONNX function body, and its kernels."""

from __future__ import annotations

import dataclasses
import enum
import functools
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import onnx.parser
import onnx_ir as ir

from edgec.core.dialect import EDGEC_DOMAIN, ONNX_OPSET
from edgec.plugins.sizes import Rule, Sum

KERNELS = Path(__file__).parent / "kernels"

INSTRUCTIONS = ("avx512", "avx2", "baseline")
"""Instruction sets of x86-64 that a vectorised kernel is compiled for, the best first."""


class Kind(enum.Enum):
    """What type a tensor of an op has."""

    LIKE_FIRST = "like the first input"
    FLOAT32 = "float32"
    """In an fp16 or bf16 graph too: counts, which fp16 holds to 2048 only, and scores, which are ranked."""
    INT32 = "int32"
    BOOL = "bool"


_DTYPES = {Kind.FLOAT32: ir.DataType.FLOAT, Kind.INT32: ir.DataType.INT32, Kind.BOOL: ir.DataType.BOOL}


@dataclasses.dataclass(frozen=True)
class Port:
    """One input or output.

    Attributes:
        name: as the function body calls it.
        shape: its sizes, sums of names and numbers separated by commas: `batch, length - r, 1`. Inputs name
            the sizes, one name being one size throughout the op; outputs use these names and the attributes'.
            A name that neither has is a size that depends on the data. None where any rank goes, which no
            kernel takes.
        kind: its type.
    """

    name: str
    shape: str | None
    kind: Kind = Kind.LIKE_FIRST

    @functools.cached_property
    def sizes(self) -> tuple[Sum, ...]:
        """The shape, parsed."""
        return () if self.shape is None else tuple(Sum.parse(each) for each in self.shape.split(","))


@dataclasses.dataclass(frozen=True)
class Limit:
    """What a kernel takes of one size, as it must be known before the kernel runs.

    Attributes:
        name: the size.
        most: the largest; None where any is taken.
        multiple: what it must be a multiple of.
        may_be_open: whether a size that is not known when compiling is let through.
    """

    name: str
    most: int | None = None
    multiple: int = 1
    may_be_open: bool = False

    def obstacle(self, size: int | None) -> str:
        """Why the kernel does not take a size, None being an open one; empty where it does."""
        if size is None:
            return "" if self.may_be_open else f"its {self.name} is open"
        if size % self.multiple or (self.most is not None and size > self.most):
            wanted = f"multiples of {self.multiple} " if self.multiple > 1 else ""
            return f"its {self.name} is {size}; the kernel takes {wanted}up to {self.most}"
        return ""


@dataclasses.dataclass(frozen=True)
class CpuKernel:
    """A kernel for processors: C++ with an `EDGEC_CPU_KERNEL(<op type>)`, see `kernels/cpu/kernel.h`.

    Attributes:
        source: its file, relative to `kernels/cpu`.
        types: what the ports that are like the first input may be.
        vectorised: whether the file is compiled once for each of `INSTRUCTIONS`.
        tiles: the file of a variant for AMX, which may leave a call to the others.
    """

    source: str | Path
    types: tuple[str, ...] = ("float32",)
    vectorised: bool = False
    tiles: str | Path | None = None

    @property
    def variants(self) -> dict[str, Path]:
        """Source by instruction set, the best first."""
        folder = KERNELS / "cpu"
        tiles = {} if self.tiles is None else {"amx": folder / self.tiles}
        others = INSTRUCTIONS if self.vectorised else INSTRUCTIONS[-1:]
        return tiles | dict.fromkeys(others, folder / self.source)


@dataclasses.dataclass(frozen=True)
class CudaKernel:
    """A kernel for NVIDIA's GPUs: CUDA with an `EDGEC_CUDA_KERNEL(<op type>)`, see `kernels/cuda/kernel.h`.

    Attributes:
        source: its file, relative to `kernels/cuda`.
        types: what the ports that are like the first input may be.
        workspace: whether it has an `EDGEC_CUDA_WORKSPACE(<op type>)`.
        limits: the sizes that it takes.
        capability: the compute capability, times ten, that its instructions need.
    """

    source: str | Path
    types: tuple[str, ...] = ("float16", "float32")
    workspace: bool = False
    limits: tuple[Limit, ...] = ()
    capability: int = 0

    @property
    def path(self) -> Path:
        """The file."""
        return KERNELS / "cuda" / self.source


class Kernels(TypedDict, total=False):
    """A plugin's kernels by what runs them."""

    cpu: CpuKernel
    cuda: CudaKernel


@dataclasses.dataclass(frozen=True)
class Plugin:
    """One custom op, declared: bindings, builds and tests go by what is said here.

    Attributes:
        op_type: the op's name in `ai.edgec`.
        doc: what the op computes, one sentence, with its source.
        inputs: its inputs, all of which a node has.
        outputs: its outputs.
        body: the steps of the ONNX function that is the op's definition: standard ops in ONNX's textual form.
        attributes: default by name, each an int or a float.
        rules: what sizes and attributes must hold, `2 * r <= length`.
        check: sees to a node's attributes when shapes are inferred; raises RequestError.
        kernels: its kernels; wherever one is missing, the body runs in its place.
    """

    op_type: str
    doc: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    body: str
    attributes: Mapping[str, int | float] = dataclasses.field(default_factory=dict)
    rules: tuple[str, ...] = ()
    check: Callable[[ir.Node], None] | None = None
    kernels: Kernels = dataclasses.field(default_factory=Kernels)

    def function(self) -> ir.Function:
        """The ONNX function whose body, in standard ops, is the op's definition."""
        declared = ", ".join(
            f"{name}: {'float' if isinstance(value, float) else 'int'} = {value}"
            for name, value in self.attributes.items()
        )
        inputs, outputs = (", ".join(port.name for port in ports) for ports in (self.inputs, self.outputs))
        text = (
            f'<domain: "{EDGEC_DOMAIN}", opset_import: ["": {ONNX_OPSET}]>\n'
            f"{self.op_type} {f'<{declared}>' if declared else ''} ({inputs}) => ({outputs})\n{{{self.body}}}"
        )
        function = ir.from_proto(onnx.parser.parse_function(text))
        assert isinstance(function, ir.Function)
        return function

    def infer(self, node: ir.Node) -> Sequence[tuple[ir.Shape, ir.DataType]]:
        """Shapes and dtypes of a node's outputs; nothing where its first input's are unknown.

        Raises:
            ValueError: an input has another rank than is declared.
            RequestError: an attribute is not for these inputs.
        """
        if self.check is not None:
            self.check(node)
        first = node.inputs[0] if node.inputs else None
        if first is None or first.shape is None or first.dtype is None:
            return []
        sizes = self.sizes_of(node)
        dims = {name: size for name, size in sizes.items() if size is not None}
        known = {
            **self.numbers_of(node),
            **{name: size for name, size in dims.items() if isinstance(size, int)},
        }
        found = []
        for port in self.outputs:
            shape = [self._dim(each, known, dims) for each in port.sizes]
            found.append((ir.Shape(shape), _DTYPES.get(port.kind, first.dtype)))
        return found

    @staticmethod
    def _dim(
        size: Sum, known: Mapping[str, int], dims: Mapping[str, int | ir.SymbolicDim]
    ) -> int | ir.SymbolicDim:
        value = size.value(known)
        if value is not None:
            return value
        return dims.get(size.name or "", ir.SymbolicDim(None))

    def sizes_of(self, node: ir.Node) -> dict[str, int | ir.SymbolicDim | None]:
        """The sizes that a node's inputs give, by name; None of an input whose shape is unknown.

        Raises:
            ValueError: an input has another rank than is declared.
        """
        found: dict[str, int | ir.SymbolicDim | None] = {}
        for port, value in zip(self.inputs, node.inputs, strict=False):
            shape = None if value is None else value.shape
            if port.shape is not None and shape is not None and len(shape) != len(port.sizes):
                raise ValueError(f"{node.name}: {port.name} must be ({port.shape}), not of rank {len(shape)}")
            for axis, size in enumerate(port.sizes):
                if size.name is not None and not isinstance(found.get(size.name), int):
                    found[size.name] = None if shape is None else shape[axis]
        return found

    def numbers_of(self, node: ir.Node) -> dict[str, int]:
        """A node's integer attributes, with their defaults."""
        return {
            name: node.attributes[name].as_int() if name in node.attributes else default
            for name, default in self.attributes.items()
            if isinstance(default, int)
        }

    def obstacle(self, node: ir.Node, kernel: CudaKernel) -> str:
        """Why a kernel does not take a node of this op; empty where it does.

        Sizes that decide must be known: a kernel cannot fall back when it runs.
        """
        for port, value in zip(self.inputs, node.inputs, strict=False):
            if value is None or value.shape is None:
                return "the shape of an input is not known"
            if len(value.shape) != len(port.sizes):
                return f"its {port.name} has rank {len(value.shape)}"
        sizes = self.sizes_of(node)
        for limit in kernel.limits:
            size = sizes[limit.name]
            reason = limit.obstacle(size if isinstance(size, int) else None)
            if reason:
                return reason
        return ""

    @functools.cached_property
    def parsed_rules(self) -> tuple[Rule, ...]:
        """The rules, parsed."""
        return tuple(Rule.parse(each) for each in self.rules)

    @property
    def open_size(self) -> str | None:
        """The name of the size of an output that depends on the data; None where there is none."""
        given = {size.name for port in self.inputs for size in port.sizes} | self.attributes.keys()
        named = {name for port in self.outputs for size in port.sizes for name in size.names}
        return next(iter(sorted(named - given)), None)

    @property
    def full_inputs(self) -> frozenset[int]:
        """Places of the inputs that stay fp32 in an fp16 graph."""
        return _full(self.inputs)

    @property
    def full_outputs(self) -> frozenset[int]:
        """Places of the outputs that stay fp32 in an fp16 graph."""
        return _full(self.outputs)


def _full(ports: Iterable[Port]) -> frozenset[int]:
    return frozenset(place for place, port in enumerate(ports) if port.kind is Kind.FLOAT32)


_PLUGINS: dict[str, Plugin] = {}


def register(plugin: Plugin) -> Plugin:
    """Make a plugin known.

    Raises:
        ValueError: another plugin has the op type.
    """
    if plugin.op_type in _PLUGINS:
        raise ValueError(f"two plugins define {EDGEC_DOMAIN}::{plugin.op_type}")
    _PLUGINS[plugin.op_type] = plugin
    return plugin


def plugins() -> dict[str, Plugin]:
    """All plugins by op type: those of `ops/`, and what else has been registered."""
    _load_ops()
    return dict(_PLUGINS)


@functools.cache
def _load_ops() -> None:
    from edgec.plugins import ops

    for module in sorted(pkgutil.iter_modules(ops.__path__), key=lambda module: module.name):
        if module.ispkg:
            importlib.import_module(f"{ops.__name__}.{module.name}.op")
