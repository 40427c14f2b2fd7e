"""The operations of a saved package, with shapes, types and source layers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgec.runtime.engine import EngineDescription
from edgec.targets.coreml.checker.package import read

_TYPES = {10: "fp16", 11: "fp32", 12: "fp64", 1: "bool", 2: "string", 21: "int8", 22: "int16", 23: "int32"}
_TYPES |= {24: "int64", 31: "uint8", 32: "uint16", 33: "uint32", 34: "uint64"}
_WIDTHS = {"fp16": 2, "fp32": 4, "int32": 4, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "bool": 1}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A value of the program.

    Attributes:
        name: its name.
        dtype: `fp16`, `int32`, ….
        shape: its sizes; 0 for one that is open.
        constant: whether it is a weight or another constant.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    constant: bool

    @property
    def bytes(self) -> int:
        """How much it takes; open sizes count as one."""
        return math.prod(size or 1 for size in self.shape) * _WIDTHS.get(self.dtype, 4)


@dataclasses.dataclass(frozen=True)
class Operation:
    """One operation that computes.

    Attributes:
        name: its name in the package.
        op: its MIL type.
        source: the layer of the user's model it came from; its name where that is not known.
        inputs: tensors by parameter name, lists flattened.
        outputs: its results.
        numbers: small constant parameters by name (axes, strides, flags).
    """

    name: str
    op: str
    source: str
    inputs: tuple[tuple[str, Tensor], ...]
    outputs: tuple[Tensor, ...]
    numbers: dict[str, Any]

    def given(self, parameter: str) -> Tensor | None:
        """The first tensor of a parameter."""
        return next((tensor for name, tensor in self.inputs if name == parameter), None)


def operations(folder: Path) -> list[Operation]:
    """The operations of the package in an engine's folder, in order, constants left out.

    Raises:
        IntegrityError: the package or its description cannot be read.
    """
    description = EngineDescription.read(folder)
    package = read(folder / description.model)
    function = package.functions["main"]
    known: dict[str, Tensor] = {}
    for item in function.inputs:
        known[item.name] = _tensor(item, constant=False)
    block = next(iter(function.block_specializations.values()))
    return list(_operations(block, known, {}, description.layers))


def _operations(
    block: Any, known: dict[str, Tensor], numbers: dict[str, Any], layers: dict[str, str]
) -> Iterator[Operation]:
    """The operations of a block, and behind each those of its own blocks."""
    for operation in block.operations:
        constant = operation.type == "const" or operation.type.startswith("constexpr_")
        results = tuple(_tensor(item, constant=constant) for item in operation.outputs)
        known |= {result.name: result for result in results}
        if constant:
            numbers |= {result.name: _number(operation) for result in results}
            continue
        inputs, small = _inputs(operation, known, numbers)
        yield Operation(
            results[0].name if results else operation.type,
            operation.type,
            _source(operation, results, layers),
            tuple(inputs),
            results,
            small,
        )
        for inner in operation.blocks:
            known |= {item.name: _tensor(item, constant=False) for item in inner.inputs}
            yield from _operations(inner, known, numbers, layers)


def _tensor(item: Any, *, constant: bool) -> Tensor:
    kind = item.type.tensorType
    shape = tuple(
        int(size.constant.size) if size.WhichOneof("dimension") == "constant" else 0
        for size in kind.dimensions
    )
    return Tensor(item.name, _TYPES.get(kind.dataType, "other"), shape, constant)


def _inputs(
    operation: Any, known: dict[str, Tensor], numbers: dict[str, Any]
) -> tuple[list[tuple[str, Tensor]], dict[str, Any]]:
    inputs, small = [], {}
    for parameter, argument in operation.inputs.items():
        for binding in argument.arguments:
            name = binding.name
            if not name:
                small[parameter] = _immediate(binding.value)
            elif name in known:
                inputs.append((parameter, known[name]))
                if numbers.get(name) is not None:
                    small[parameter] = numbers[name]
    return inputs, small


def _number(operation: Any) -> Any:
    """The value of a small constant; None for weights, whose bytes lie in another file."""
    return _immediate(operation.attributes["val"]) if "val" in operation.attributes else None


def _immediate(value: Any) -> Any:
    if value.WhichOneof("value") != "immediateValue":
        return None
    tensor = value.immediateValue.tensor
    kind = tensor.WhichOneof("value")
    if kind is None or kind == "bytes":
        return None
    values = list(getattr(tensor, kind).values)
    scalar = not value.type.tensorType.dimensions
    return values[0] if scalar and values else values


def _source(operation: Any, results: tuple[Tensor, ...], layers: dict[str, str]) -> str:
    """The layer whose name begins the operation's: the longest that does."""
    names = [result.name for result in results]
    if "name" in operation.attributes:
        names.append(str(_immediate(operation.attributes["name"])))
    best = ""
    for stem in layers:
        if len(stem) > len(best) and any(name.startswith(stem) for name in names):
            best = stem
    return layers.get(best) or (names[0] if names else operation.type)
