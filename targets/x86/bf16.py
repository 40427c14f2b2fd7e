"""bf16 written into an OpenVINO model: around edgec's own kernels, or operation by operation.

OpenVINO computes a float32 model in bf16 on a hint, all of it. Where some layers must stay in fp32, the hint
is no help: its mark for an operation (`DisablePrecisionConversion`) is lost when a product with a weight
becomes a fully connected layer (seen in 2026.4). Types that the model itself declares are kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from edgec.passes.precision import structure
from edgec.plugins.bindings.openvino import kernel_inputs
from edgec.runtime.openvino_core import import_openvino

_PRODUCTS = frozenset(
    {
        "Convolution",
        "ConvolutionBackpropData",
        "GroupConvolution",
        "GroupConvolutionBackpropData",
        "MatMul",
        "ScaledDotProductAttention",
    }
)
"""What bf16 makes faster by itself."""

_LAST = _PRODUCTS | {
    "GRUCell",
    "GRUSequence",
    "If",
    "Interpolate",
    "Loop",
    "LSTMCell",
    "LSTMSequence",
    "RNNCell",
    "RNNSequence",
    "TensorIterator",
}
"""What ends the part of a network that stays in fp32 in front of its outputs."""

_COMPUTES = _PRODUCTS | {
    "Abs",
    "Add",
    "AvgPool",
    "Clamp",
    "Divide",
    "Elu",
    "Erf",
    "Exp",
    "Gelu",
    "HSigmoid",
    "HSwish",
    "Maximum",
    "Minimum",
    "Mish",
    "Multiply",
    "MVN",
    "Negative",
    "NormalizeL2",
    "Power",
    "PRelu",
    "ReduceMean",
    "ReduceSum",
    "Sigmoid",
    "SoftPlus",
    "Softmax",
    "Sqrt",
    "SquaredDifference",
    "Subtract",
    "Swish",
    "Tanh",
}
"""What rounds its results."""

_MOVES = frozenset(
    {
        "Broadcast",
        "Concat",
        "DepthToSpace",
        "Gather",
        "MaxPool",
        "Pad",
        "ReduceMax",
        "Relu",
        "Reshape",
        "Select",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "StridedSlice",
        "Tile",
        "Transpose",
        "Unsqueeze",
        "VariadicSplit",
    }
)
"""What gives values that it was given, in the type that they have.

Every other operation stays in fp32, with a conversion in front and behind.
"""

_Place = tuple[str, int]


def kernels_in_bf16(model: Any) -> None:
    """Give edgec's own kernels bf16 tensors, as they lie between OpenVINO's own bf16 kernels.

    OpenVINO keeps the types that a custom op declares, and would convert to float32 and back around it.
    """
    from openvino import opset13

    for operation, wide in _kernels(model):
        for index in wide:
            half = opset13.convert(operation.input_value(index), "bf16")
            operation.input(index).replace_source_output(half.output(0))
        readers = list(operation.output(0).get_target_inputs())
        full = opset13.convert(operation.output(0), "f32")
        for reader in readers:
            reader.replace_source_output(full.output(0))
    model.validate_nodes_and_infer_types()


def in_bf16(
    model: Any, layers: Mapping[str, str], kept: frozenset[str], full: Collection[str] = frozenset()
) -> None:
    """Write into a float32 model what computes in bf16: all but some operations and those of some layers.

    ::

        x ── MatMul(weight) ── Softmax (kept) ── y

        x ── Convert(bf16) ── MatMul(weight in bf16) ── Convert(f32) ── Softmax ── y

    Weights are rounded here to the nearest, ties to even: OpenVINO folds a constant's conversion by cutting
    its lower bits off, which makes every weight smaller (seen in 2026.4). What follows the last product stays
    in fp32, as it does under OpenVINO's own hint. The model is to be compiled under the hint for fp32.

    Args:
        model: an OpenVINO model in float32, changed in place; its kernels may be in bf16.
        layers: the source layer of each operation, by its name.
        kept: source layers that stay in fp32.
        full: names of operations that stay in fp32 whatever their layer does (`stays_full`).
    """
    _kernels_in_fp32(model)
    _fold_constants(model)
    _Rewriter(model, layers, kept, full).run()
    model.validate_nodes_and_infer_types()


def stays_full(model: Any, lowered: ir.Model) -> frozenset[str]:
    """Names of the operations that must not round, of those that bf16 would.

    Args:
        model: what OpenVINO read of the lowered model, in float32.
        lowered: the lowered model.
    """
    reasons = structure.stays_full(lowered)
    known = {value.name for node in lowered.graph for value in node.outputs} | {n.name for n in lowered.graph}
    wanted = {value.name for node in lowered.graph if node.name in reasons for value in node.outputs}
    found: set[str] = set()
    for operation in reversed(model.get_ordered_ops()):
        name = operation.get_friendly_name()
        names = {name, *(tensor for output in operation.outputs() for tensor in output.get_names())}
        if names & known:
            is_wanted = bool(names & (wanted | reasons.keys()))
        else:
            # What OpenVINO made for itself, as of a Gemm, is its reader's.
            is_wanted = any(
                target.get_node().get_friendly_name() in found
                for output in operation.outputs()
                for target in output.get_target_inputs()
            )
        if is_wanted:
            found.add(name)
    return frozenset(able.operation.get_friendly_name() for able in _rounding(model)) & found


def in_fp32(model: Any) -> frozenset[str]:
    """Undo `in_bf16` in place, but for the weights, which stay rounded; the operations that it had kept."""
    kept = frozenset(able.operation.get_friendly_name() for able in _rounding(model))
    openvino = import_openvino()
    for operation in model.get_ordered_ops():
        kind = operation.get_type_name()
        if kind == "Constant" and operation.get_element_type().to_string() == "bf16":
            wide = operation.data.view(ml_dtypes.bfloat16).astype(np.float32)
            operation.output(0).replace(openvino.op.Constant(wide).output(0))
        elif kind == "Convert" and "bf16" in _types(operation):
            operation.output(0).replace(operation.input_value(0))
    model.validate_nodes_and_infer_types()
    return kept


def _types(operation: Any) -> set[str]:
    return {value.get_element_type().to_string() for value in (operation.input_value(0), operation.output(0))}


def rounded_layers(
    model: Any, layers: Mapping[str, str], full: Collection[str] = frozenset()
) -> tuple[str, ...]:
    """The source layers whose results bf16 rounds, in execution order; arguments as of `in_bf16`."""
    names = (able.operation.get_friendly_name() for able in _rounding(model))
    found = (layers.get(name) for name in names if name not in full)
    return tuple(dict.fromkeys(layer for layer in found if layer))


def _rounding(model: Any) -> Iterator[_Able]:
    return (able for able in _able(model, _carrying(model)) if able.rounds)


class _Rewriter:
    """Converts where the type changes between an operation and what it reads, once for each tensor."""

    def __init__(
        self, model: Any, layers: Mapping[str, str], kept: frozenset[str], full: Collection[str]
    ) -> None:
        self._operations = list(model.get_ordered_ops())
        self._floats = {
            _place(output)
            for operation in self._operations
            for output in operation.outputs()
            if _is_float(output)
        }
        self._carrying = _carrying(model)
        # Of each operation that computes in bf16: the inputs that then are; and the tensors that it gives so.
        self._halves: dict[str, tuple[int, ...]] = {}
        self._rounded: set[_Place] = set()
        for able in _able(model, self._carrying):
            if able.rounds:
                name = able.operation.get_friendly_name()
                is_half = name not in full and layers.get(name) not in kept
            else:
                is_half = all(_place(value) in self._rounded for value in able.flowing)
            if is_half:
                self._halves[able.operation.get_name()] = able.inputs
                self._rounded.update(_place(output) for output in able.outputs)
        self._narrow: dict[_Place, Any] = {}
        self._wide: dict[_Place, Any] = {}

    def run(self) -> None:
        for operation in self._operations:
            inputs = self._halves.get(operation.get_name(), ())
            for index in range(operation.get_input_size()):
                source = operation.input_value(index)
                place = _place(source)
                if place not in self._floats:
                    continue
                is_half = place in self._rounded
                if index in inputs and not is_half:
                    operation.input(index).replace_source_output(self._narrowed(source, place))
                elif is_half and index not in inputs:
                    operation.input(index).replace_source_output(self._widened(source, place))

    def _narrowed(self, source: Any, place: _Place) -> Any:
        from openvino import opset13

        if place not in self._narrow:
            node = source.get_node()
            if node.get_type_name() == "Constant":
                half = _rounded(node.data)
            elif node.get_name() in self._carrying:
                half = opset13.convert(source, "bf16")
            else:
                half = opset13.convert(_within_bf16(source), "bf16")
            half.set_friendly_name(f"{node.get_friendly_name()}/bf16")
            self._narrow[place] = half.output(0)
        return self._narrow[place]

    def _widened(self, source: Any, place: _Place) -> Any:
        from openvino import opset13

        if place not in self._wide:
            full = opset13.convert(source, "f32")
            full.set_friendly_name(f"{source.get_node().get_friendly_name()}/fp32")
            self._wide[place] = full.output(0)
        return self._wide[place]


_LARGEST = float(ml_dtypes.finfo(ml_dtypes.bfloat16).max)


def _within_bf16(source: Any) -> Any:
    """A computed mask whose finite values stay finite in bf16: its least float32 would round to -inf."""
    from openvino import opset13

    clamped = opset13.clamp(source, -_LARGEST, _LARGEST)
    return opset13.select(opset13.is_inf(source), source, clamped)


def _rounded(values: np.ndarray) -> Any:
    """A bf16 constant. A finite value stays finite, as of a computed mask."""
    openvino = import_openvino()
    finite = np.where(np.isfinite(values), np.clip(values, -_LARGEST, _LARGEST), values)
    bits = np.array(finite.astype(ml_dtypes.bfloat16).view(np.uint16), order="C")
    tensor = openvino.Tensor(bits, openvino.Shape(bits.shape), openvino.Type.bf16)
    return openvino.op.Constant(tensor, shared_memory=False)


@dataclasses.dataclass(frozen=True)
class _Able:
    """An operation that can compute in bf16.

    Attributes:
        operation: the operation.
        inputs: places of the inputs that are in bf16 then.
        flowing: of a move, what it is given besides constants: it takes the type that they have.
    """

    operation: Any
    inputs: tuple[int, ...]
    flowing: tuple[Any, ...] = ()

    @property
    def rounds(self) -> bool:
        """Whether it gives other values than it was given: a move of constants does, which are rounded."""
        return not self.flowing

    @property
    def outputs(self) -> Sequence[Any]:
        """What is in bf16 then. Beside a kernel's first output, its sizes and places stay as they are."""
        outputs: Sequence[Any] = self.operation.outputs()
        return outputs[:1] if self.operation.get_type_name() in kernel_inputs("bfloat16") else outputs


def _able(model: Any, carrying: Collection[str]) -> Iterator[_Able]:
    """The operations that can compute in bf16, in execution order; `carrying` is what `_carrying` finds."""
    tail, ours = _tail(model), kernel_inputs("bfloat16")
    for operation in model.get_ordered_ops():
        kind = operation.get_type_name()
        values = operation.input_values()
        carried = [value.get_node().get_name() in carrying for value in values]
        if operation.get_name() in tail or operation.get_name() not in carrying:
            continue
        if kind in ours:
            yield _Able(operation, ours[kind])
        elif kind in _COMPUTES or kind in _MOVES:
            floats = tuple(index for index, value in enumerate(values) if _is_float(value))
            if floats and all(_is_float(output) for output in operation.outputs()):
                flowing = tuple(values[index] for index in floats if carried[index] and kind in _MOVES)
                yield _Able(operation, floats, flowing)


def _carrying(model: Any) -> set[str]:
    """What depends on the network's float inputs and tables.

    What is worked out from shapes and integers alone is sizes, places and masks: bf16 holds whole numbers up
    to 256.
    """
    found: set[str] = set()
    for operation in model.get_ordered_ops():
        kind = operation.get_type_name()
        begins = kind in ("Parameter", "Gather") and _is_float(operation.output(0))
        sources = (value.get_node().get_name() for value in operation.input_values())
        if begins or (kind != "ShapeOf" and any(name in found for name in sources)):
            found.add(operation.get_name())
    return found


def _place(value: Any) -> _Place:
    return value.get_node().get_name(), value.get_index()


def _is_float(value: Any) -> bool:
    return value.get_element_type().to_string() == "f32"


def _tail(model: Any) -> set[str]:
    """The operations between the last products and the outputs."""
    found: set[str] = set()
    waiting = [value.get_node() for result in model.get_results() for value in result.input_values()]
    while waiting:
        operation = waiting.pop()
        if operation.get_type_name() in _LAST or operation.get_name() in found:
            continue
        found.add(operation.get_name())
        waiting += [value.get_node() for value in operation.input_values()]
    return found


def _kernels(model: Any) -> Iterator[tuple[Any, tuple[int, ...]]]:
    for operation in model.get_ordered_ops():
        if (inputs := kernel_inputs("bfloat16").get(operation.get_type_name())) is not None:
            yield operation, inputs


def _kernels_in_fp32(model: Any) -> None:
    """Take away the conversions of `kernels_in_bf16`."""
    for operation, wide in _kernels(model):
        for index in wide:
            half = operation.input_value(index)
            if half.get_element_type().to_string() == "bf16":
                operation.input(index).replace_source_output(half.get_node().input_value(0))
        if operation.output(0).get_element_type().to_string() == "bf16":
            for reader in list(operation.output(0).get_target_inputs()):
                reader.get_node().output(0).replace(operation.output(0))
    model.validate_nodes_and_infer_types()


def _fold_constants(model: Any) -> None:
    from openvino.passes import ConstantFolding, Manager

    manager = Manager()
    manager.register_pass(ConstantFolding())
    manager.run_passes(model)
