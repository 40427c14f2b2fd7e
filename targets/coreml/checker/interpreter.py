"""Runs a saved ML program op by op in numpy, at the precisions that the program declares."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from edgec.core.errors import IntegrityError, JobError
from edgec.targets.coreml.checker.arguments import Arguments
from edgec.targets.coreml.checker.package import Package
from edgec.targets.coreml.checker.registry import kernels

_TYPES: dict[str, str] = {
    "BOOL": "bool",
    "STRING": "str",
    "FLOAT16": "float16",
    "FLOAT32": "float32",
    "FLOAT64": "float64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "INT4": "int8",
    "UINT1": "uint8",
    "UINT2": "uint8",
    "UINT3": "uint8",
    "UINT4": "uint8",
    "UINT6": "uint8",
}
"""Declared types and the numpy types that hold their values."""

Watch = Callable[[str, str, Any], None]
"""Told each op's type, output name and value."""


class Interpreter:
    """One function of a package, ready to run.

    Constants are read once. A state keeps its value between runs, as on the device.
    """

    def __init__(self, package: Package, function: str = "main") -> None:
        self.package = package
        if function not in package.functions:
            raise self._broken(f"has no function {function!r}")
        self._function = package.functions[function]
        specializations = dict(self._function.block_specializations)
        if self._function.opset not in specializations:
            raise self._broken(f"has no block for its opset {self._function.opset!r}")
        self.opset = self._function.opset
        self._block = specializations[self._function.opset]
        self._constants: dict[str, Any] = {}
        self.states: dict[str, np.ndarray] = {}
        self.inputs = {item.name: item.type for item in self._function.inputs}
        self.reset()

    def _broken(self, what: str) -> IntegrityError:
        return IntegrityError(
            f"the program {what}", where=str(self.package.path), fix="compile the model again"
        )

    def reset(self) -> None:
        """Set every state to zeros."""
        for name, kind in self.inputs.items():
            if kind.WhichOneof("type") == "stateType":
                wrapped = kind.stateType.wrappedType.tensorType
                self.states[name] = np.zeros(_shape(wrapped), _dtype(wrapped))

    @property
    def outputs(self) -> list[str]:
        """Names of the function's outputs, in order."""
        return list(self._block.outputs)

    @property
    def op_types(self) -> list[str]:
        """The type of every op in order, constants aside."""
        return [operation.type for operation in self._block.operations if operation.type != "const"]

    def run(self, feeds: Mapping[str, np.ndarray], watch: Watch | None = None) -> dict[str, Any]:
        """Run once.

        Args:
            feeds: arrays by input name, in the declared types.
            watch: told every result.

        Raises:
            JobError: an op is not known here, or a result is not of its declared shape.
            IntegrityError: the program or its weights are broken.
        """
        values: dict[str, Any] = {}
        for name, kind in self.inputs.items():
            if name in self.states:
                continue
            if name not in feeds:
                raise JobError(f"input {name!r} is missing")
            values[name] = np.asarray(feeds[name]).astype(_dtype(kind.tensorType))
        results = self._run_block(self._block, values, watch)
        return dict(zip(self._block.outputs, results, strict=True))

    def _run_block(self, block: Any, values: dict[str, Any], watch: Watch | None) -> list[Any]:
        """What a block gives; its values are added to those it can read, and dropped after their last use."""
        remaining = _last_uses(block)
        for position, operation in enumerate(block.operations):
            self._step(operation, values, watch)
            for name in remaining.get(position, ()):
                values.pop(name, None)
        return [values[name] for name in block.outputs]

    def _step(self, operation: Any, values: dict[str, Any], watch: Watch | None) -> None:
        kind = operation.type
        if kind == "const":
            output = operation.outputs[0].name
            if output not in self._constants:
                self._constants[output] = self.value(operation.attributes["val"])
            values[output] = self._constants[output]
            return
        if kind in ("read_state", "write_state"):
            self._state(operation, values)
            return
        if kind in ("cond", "while_loop"):
            results = self._controlled(operation, values, watch)
            for declared, result in zip(operation.outputs, results, strict=True):
                values[declared.name] = self._declared(operation, declared, result)
            return
        kernel = kernels().get(kind)
        if kernel is None:
            raise JobError(f"the checker does not know the op {kind} ({_name(operation)})")
        cached = kind.startswith("constexpr_") and operation.outputs[0].name in self._constants
        if cached:
            values[operation.outputs[0].name] = self._constants[operation.outputs[0].name]
            return
        arguments = Arguments(kind, self._bindings(operation, values), self.opset)
        try:
            results = kernel(arguments)
        except (ValueError, IndexError, KeyError, TypeError) as error:
            raise JobError(f"{kind} {_name(operation)} cannot be run ({error})") from error
        if not isinstance(results, (tuple, list)):
            results = (results,)
        for declared, result in zip(operation.outputs, results, strict=True):
            stored = self._declared(operation, declared, result)
            values[declared.name] = stored
            if kind.startswith("constexpr_"):
                self._constants[declared.name] = stored
            if watch is not None:
                watch(kind, declared.name, stored)

    def _controlled(self, operation: Any, values: dict[str, Any], watch: Watch | None) -> list[Any]:
        """What a `cond` or a `while_loop` gives. Blocks leave nothing outside."""
        bindings = self._bindings(operation, values)
        if operation.type == "cond":
            taken = operation.blocks[0 if bindings["pred"][0].reshape(()) else 1]
            return self._run_block(taken, dict(values), watch)
        condition, body = operation.blocks
        carried = bindings["loop_vars"]
        while True:
            given = dict(zip([item.name for item in condition.inputs], carried, strict=True))
            if not np.asarray(self._run_block(condition, {**values, **given}, watch)[0]).reshape(()):
                return carried
            given = dict(zip([item.name for item in body.inputs], carried, strict=True))
            carried = self._run_block(body, {**values, **given}, watch)

    def _state(self, operation: Any, values: dict[str, Any]) -> None:
        state = operation.inputs["input"].arguments[0].name
        if operation.type == "write_state":
            data = values[operation.inputs["data"].arguments[0].name]
            self.states[state] = data.astype(self.states[state].dtype).reshape(self.states[state].shape)
        else:
            values[operation.outputs[0].name] = self.states[state]

    def _bindings(self, operation: Any, values: dict[str, Any]) -> dict[str, list[Any]]:
        found = {key: [self.value(item)] for key, item in operation.attributes.items()}
        for key, argument in operation.inputs.items():
            found[key] = [self._binding(binding, values) for binding in argument.arguments]
        return found

    def _binding(self, binding: Any, values: dict[str, Any]) -> Any:
        if binding.WhichOneof("binding") == "value":
            return self.value(binding.value)
        if binding.name not in values:
            raise self._broken(f"reads {binding.name!r} before it is computed")
        return values[binding.name]

    def value(self, item: Any) -> Any:
        """The array, list or number that a `Value` message holds."""
        if item.WhichOneof("value") == "blobFileValue":
            tensor = item.type.tensorType
            blob = self.package.blobs(item.blobFileValue.fileName)
            return blob.read(item.blobFileValue.offset, _shape(tensor)).astype(_dtype(tensor))
        if item.type.WhichOneof("type") == "listType":
            return [self.value(entry) for entry in item.immediateValue.list.values]
        return _immediate(item)

    def _declared(self, operation: Any, declared: Any, result: Any) -> Any:
        """A result rounded to its declared type, once it has the declared shape."""
        kind = declared.type.WhichOneof("type")
        if kind != "tensorType":
            return result
        tensor = declared.type.tensorType
        array = np.asarray(result)
        wanted = [_size(dimension) for dimension in tensor.dimensions]
        agrees = array.ndim == len(wanted) and all(
            size is None or size == found for size, found in zip(wanted, array.shape, strict=True)
        )
        if not agrees:
            raise JobError(
                f"{operation.type} {declared.name} gives shape {array.shape}, declared is {wanted}",
            )
        dtype = _dtype(tensor)
        if array.dtype == dtype:
            return array
        with np.errstate(over="ignore", invalid="ignore"):
            return array.astype(dtype)


def _last_uses(block: Any) -> dict[int, list[str]]:
    """Values by the position of the op that reads them last; outputs are kept."""
    last: dict[str, int] = {}
    for position, operation in enumerate(block.operations):
        for name in _read(operation):
            last[name] = position
    released: dict[int, list[str]] = {}
    for name, position in last.items():
        if name not in block.outputs:
            released.setdefault(position, []).append(name)
    return released


def _read(operation: Any) -> Iterator[str]:
    """The names that an operation reads, and those that its blocks do."""
    for argument in operation.inputs.values():
        for binding in argument.arguments:
            if binding.WhichOneof("binding") == "name":
                yield binding.name
    for block in operation.blocks:
        yield from block.outputs
        for inner in block.operations:
            yield from _read(inner)


def _name(operation: Any) -> str:
    return operation.outputs[0].name if operation.outputs else ""


def _size(dimension: Any) -> int | None:
    return int(dimension.constant.size) if dimension.WhichOneof("dimension") == "constant" else None


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(_size(dimension) or 0 for dimension in tensor.dimensions)


def _dtype(tensor: Any) -> np.dtype:
    from coremltools.proto import MIL_pb2

    return np.dtype(_TYPES[MIL_pb2.DataType.Name(tensor.dataType)])


def _immediate(item: Any) -> Any:
    tensor = item.type.tensorType
    held = item.immediateValue.tensor
    field = held.WhichOneof("value")
    shape = _shape(tensor)
    if field == "strings":
        texts = list(held.strings.values)
        return texts[0] if not shape else texts
    dtype = _dtype(tensor)
    if field == "bytes":
        array = np.frombuffer(held.bytes.values, dtype)
    else:
        array = np.array(list(getattr(held, field).values) if field else [], dtype)
    return array.reshape(shape)
