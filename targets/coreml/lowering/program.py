"""The walk over a graph that turns every node into MIL, or lists all that cannot be turned."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from edgec.core.dialect import EDGEC_DOMAIN
from edgec.core.errors import RequestError, UnsupportedError
from edgec.core.graph import OpenSize
from edgec.passes.decompose.parts import STAYS_KEY
from edgec.targets.coreml.caches import Cache
from edgec.targets.coreml.images import ImageInput, fold_factors
from edgec.targets.coreml.lowering.classes import Classifier, classifier_of, probabilities
from edgec.targets.coreml.lowering.control import Controls
from edgec.targets.coreml.lowering.definitions import WHOLE_KEY, expanded
from edgec.targets.coreml.lowering.features import Feature
from edgec.targets.coreml.lowering.full import FULL_KEY, scoped
from edgec.targets.coreml.lowering.masks import clampable
from edgec.targets.coreml.lowering.open_sizes import open_rule
from edgec.targets.coreml.lowering.site import Operand, Refusal, Site, layer_of, narrowed, sanitized
from edgec.targets.coreml.lowering.states import State, entered, placeholder, state_of, update
from edgec.targets.coreml.lowering.table import REFUSED, table
from edgec.targets.coreml.versions import Release, coremltools

_OWN = ("Constant", "If", "Loop")
"""Ops that the walk takes itself."""

MAX_RANK = 5
MAX_BYTES = 2**31 - 1
"""A package's model file is one protobuf; weights live beside it, but are held in memory here."""


@dataclasses.dataclass
class Lowered:
    """A MIL program and what belongs to it.

    Attributes:
        program: coremltools' Program.
        inputs: in the graph's order.
        outputs: in the graph's order.
        layers: prefix of MIL op names → source layer.
        open_sizes: what the open dimensions of the inputs may be, by name.
        classifier: the class labels and what carries their probabilities; None where there are none.
        states: what the package keeps between calls; their inputs and outputs are not among the others.
    """

    program: Any
    inputs: list[Feature]
    outputs: list[Feature]
    layers: dict[str, str]
    open_sizes: dict[str, OpenSize] = dataclasses.field(default_factory=dict)
    classifier: Classifier | None = None
    states: list[State] = dataclasses.field(default_factory=list)


_FEATURE_TYPES = {
    "float32": "fp32",
    "float16": "fp16",
    "int32": "int32",
    "int64": "int32",
    "bool": "int32",
    "uint8": "int32",
    "int8": "int32",
    "int16": "int32",
    "uint16": "int32",
}


def lower(
    model: ir.Model,
    release: Release,
    *,
    half_inputs: bool = False,
    open_sizes: Mapping[str, OpenSize] | None = None,
    images: Mapping[str, ImageInput] | None = None,
    labels: Sequence[str] = (),
    caches: Sequence[Cache] = (),
    apart: Mapping[str, int] | None = None,
) -> Lowered:
    """Lower a model in the neutral dialect to a MIL program.

    Args:
        model: the model; it is left as it is.
        release: what the package is built for.
        half_inputs: fp32 inputs and outputs become fp16 in the package.
        open_sizes: what open dimensions may be, by name; one that is not among them is refused.
        images: the inputs that are pictures in the package, by name.
        labels: class names of the first output; where it has another number of classes they are left out.
        caches: inputs and outputs that become states.
        apart: outputs that coremltools would take together with another, by name in the package, each with a
            number of its own (`package.merged_outputs`).

    Raises:
        UnsupportedError: something in the graph has no form in Core ML; lists all of it.
    """
    model = expanded(model)
    if images:
        model = model.clone()
        for name, image in images.items():
            fold_factors(model, name, image)
    walk = _Walk(
        model, release, half_inputs, dict(open_sizes or {}), dict(images or {}), labels, caches, apart or {}
    )
    return walk.run()


def _domain(node: ir.Node) -> str:
    return "" if node.domain == "ai.onnx" else node.domain


def _counts(node: ir.Node) -> bool:
    """Whether a node computes integers from integers: what passes through floats on the way stays exact."""
    kinds = [value.dtype for value in (*node.inputs, *node.outputs) if value is not None]
    return not any(kind is not None and kind.is_floating_point() for kind in kinds)


def _is_full(value: ir.Value) -> bool:
    """Whether an input is read, or an output is made, in fp32."""
    maker = value.producer()
    ends = [use.node for use in value.uses()] if maker is None else [maker]
    return any(FULL_KEY in node.metadata_props for node in ends)


class _Walk:
    def __init__(
        self,
        model: ir.Model,
        release: Release,
        half: bool,
        open_sizes: dict[str, OpenSize],
        images: dict[str, ImageInput],
        labels: Sequence[str],
        caches: Sequence[Cache],
        apart: Mapping[str, int],
    ) -> None:
        coremltools()
        from coremltools.converters.mil.mil import Builder, get_new_symbol

        self.model = model
        self.release = release
        self.half = half
        self.open_sizes = open_sizes
        self.symbols = {name: get_new_symbol() for name in open_sizes}
        self.images = images
        self.labels = labels
        self.apart = apart
        self.names: set[str] = set()
        self.states = [state_of(cache, self._fresh(cache.past)) for cache in caches]
        self.builder = Builder
        self.values: dict[str, Operand] = {}
        self.reasons: list[str] = []
        self.refused_definitions: set[str] = set()
        self.layers: dict[str, str] = {}
        self.fixes: list[str] = []
        self.clampable = clampable(model.graph)
        self.controls = Controls(Builder, self._body, self._bind)
        self.count = 0

    def run(self) -> Lowered:
        """Build the program; collects reasons first and raises them all."""
        from coremltools.converters.mil.mil import Function, Program

        graph = self.model.graph
        pasts = {state.source for state in self.states}
        given = [value for value in graph.inputs if value.name not in pasts]
        inputs = self._features(given, "input")
        self._initializers(graph)
        if not graph.inputs:
            self.reasons.append("the graph has no inputs left, and a Core ML program needs one")
        if len(inputs) != len(given) or not inputs:
            self._scan(graph)
        if self.reasons:
            raise self._unsupported()
        placeholders = {feature.name: self._placeholder(feature) for feature in inputs}
        placeholders |= {state.name: placeholder(self.builder, state) for state in self.states}
        with Function(placeholders, opset_version=self.release.coremltools_target) as function:
            for feature in inputs:
                self.values[feature.source] = self._entered(function.inputs[feature.name], feature)
            for state in self.states:
                kind = next(value for value in graph.inputs if value.name == state.source).dtype
                inside = "fp16" if kind == ir.DataType.FLOAT16 else "fp32"
                variable = function.inputs[state.name]
                self.values[state.source] = entered(self.builder, variable, state, inside)
            for node in graph:
                self._node(node)
            presents = {state.present for state in self.states}
            outputs = self._features(
                [value for value in graph.outputs if value.name not in presents], "output"
            )
            classifier = None
            if not self.reasons:
                for state in self.states:
                    update(self.builder, function.inputs[state.name], state, self.values[state.present])
                results = [self._left(feature, self.values[feature.source]) for feature in outputs]
                classifier = classifier_of(outputs, self.labels)
                if classifier is not None:
                    results.append(probabilities(self.builder, self.model.graph, results[0], classifier))
                function.set_outputs(results)
        if self.reasons:
            raise self._unsupported()
        program = Program()
        program.add_function("main", function)
        used = {size for feature in inputs for size in feature.shape if isinstance(size, str)}
        open_sizes = {name: size for name, size in self.open_sizes.items() if name in used}
        return Lowered(program, inputs, outputs, self.layers, open_sizes, classifier, self.states)

    def _scan(self, graph: ir.Graph) -> None:
        """Where the walk cannot start, name at least the ops that no rule knows."""
        for node in graph:
            if _domain(node) == "" and node.op_type in REFUSED:
                self._refused(node, Refusal(*REFUSED[node.op_type]))
            elif (_domain(node), node.op_type) not in table() and node.op_type not in _OWN:
                stays = node.metadata_props.get(STAYS_KEY)
                self._refused(
                    node, Refusal("there is no lowering for it" + (f", and {stays}" if stays else ""))
                )

    def _unsupported(self) -> UnsupportedError:
        fixes = list(dict.fromkeys(fix for fix in self.fixes if fix))
        return UnsupportedError(
            f"coreml:{self.release.name}", self.reasons, fix="; ".join(fixes[:3]) if fixes else None
        )

    # Inputs and outputs

    def _features(self, values: Any, what: str) -> list[Feature]:
        features = []
        for value in values:
            source = value.name or ""
            name = self._fresh(source)
            sizes = value.shape if value.shape is not None else self._found_shape(source)
            if value.dtype is None or sizes is None:
                missing = "type" if value.dtype is None else "rank"
                self.reasons.append(f"{what} {source!r} has no known {missing}")
                continue
            dtype = value.dtype.name.lower()
            dtype = {"float": "float32", "double": "float64"}.get(dtype, dtype)
            if dtype not in _FEATURE_TYPES:
                self.reasons.append(f"{what} {source!r} is {dtype}, which Core ML lacks")
                self.fixes.append("export the model with float32, float16, int32 or bool inputs and outputs")
                continue
            shape = tuple(size if isinstance(size, int) else str(size.value or "?") for size in sizes)
            problem = self._shape_problem(shape, what)
            if problem:
                self.reasons.append(f"{what} {source!r} {problem}")
                continue
            mil_dtype = _FEATURE_TYPES[dtype]
            image = self.images.get(source) if what == "input" else None
            # A picture arrives as fp32: coremltools scales it before its own casts.
            if self.half and mil_dtype == "fp32" and image is None and not _is_full(value):
                mil_dtype = "fp16"
            features.append(Feature(source, name, shape, dtype, shape or (1,), mil_dtype, image))
        return features

    def _fresh(self, source: str) -> str:
        """A name in the package that no other input, output or state has."""
        name = sanitized(source)
        while name in self.names:
            name += "_"
        self.names.add(name)
        return name

    def _found_shape(self, name: str) -> ir.Shape | None:
        """The shape that the walk found for a value that came without one."""
        found = self.values.get(name)
        if found is None or not all(isinstance(size, (int, np.integer)) for size in found.shape):
            return None
        return ir.Shape([int(size) for size in found.shape])

    def _shape_problem(self, shape: tuple[int | str, ...], what: str) -> str:
        if len(shape) > MAX_RANK:
            self.fixes.append("fold axes until none of its tensors has more than 5")
            return f"has rank {len(shape)}, and Core ML stops at {MAX_RANK}"
        if 0 in shape:
            return "is empty, which Core ML lacks"
        unbounded = [size for size in shape if isinstance(size, str) and size not in self.open_sizes]
        if unbounded and what == "input":
            name = unbounded[0]
            self.fixes.append(
                "give sizes with --input NAME:SHAPE:DTYPE, or bounds in place of the name: "
                f"{name}=1..512 for a range, {name}=64|128|256 for a few sizes"
            )
            return f"has the open dimensions ({', '.join(unbounded)})"
        return ""

    def _placeholder(self, feature: Feature) -> Any:
        from coremltools.converters.mil.mil import types

        dtype = {"fp32": types.fp32, "fp16": types.fp16, "int32": types.int32}[feature.mil_dtype]
        shape = [self.symbols[size] if isinstance(size, str) else size for size in feature.mil_shape]
        return self.builder.placeholder(shape=shape, dtype=dtype)

    def _entered(self, value: Any, feature: Feature) -> Any:
        """The input in its graph's own type and rank."""
        inside = {"float32": "fp32", "float16": "fp16", "bool": "bool"}.get(feature.dtype, "int32")
        if inside == "bool":
            value = self.builder.not_equal(x=value, y=np.int32(0), name=f"{feature.name}_as_bool")
        elif inside != feature.mil_dtype:
            value = self.builder.cast(x=value, dtype=inside, name=f"{feature.name}_as_{inside}")
        if not feature.shape:
            value = self.builder.squeeze(x=value, name=f"{feature.name}_scalar")
        return value

    def _left(self, feature: Feature, value: Any) -> Any:
        """The output in the package's type and rank, under the package's name for it.

        One that coincides with another is computed again: the larger of x and x, as often as it takes to
        differ from the others.
        """
        if isinstance(value, np.ndarray):
            value = self.builder.const(val=narrowed(value, f"output {feature.source!r}"))
        if not feature.shape and len(value.shape) == 0:
            value = self.builder.expand_dims(x=value, axes=[0], name=f"{feature.name}_as_vector")
        for number in range(self.apart.get(feature.name, 0)):
            value = self.builder.maximum(x=value, y=value, name=f"{feature.name}_again_{number}")
        return self.builder.cast(x=value, dtype=feature.mil_dtype, name=feature.name)

    # Nodes

    def _body(self, body: ir.Graph) -> list[Operand]:
        """Lower a body's nodes where the builder stands; what its outputs are.

        Raises:
            Refusal: an output is not computed.
        """
        self._initializers(body)
        for node in body:
            self._node(node)
        results = [self.values.get(value.name or "") for value in body.outputs]
        for value, result in zip(body.outputs, results, strict=True):
            if result is None:
                raise Refusal(f"its result {value.name!r} is not computed by any node before it")
        return results

    def _bind(self, inputs: Sequence[ir.Value], operands: Sequence[Operand]) -> None:
        """Say what a body's inputs are."""
        self.values.update((value.name or "", one) for value, one in zip(inputs, operands, strict=True))

    def _initializers(self, graph: ir.Graph) -> None:
        for name, value in graph.initializers.items():
            if value.const_value is None:
                self.reasons.append(f"initializer {name!r} has no data")
                continue
            array = np.asarray(value.const_value.numpy())
            self.values[name] = self._clamped(value, array)

    def _clamped(self, value: ir.Value, array: np.ndarray) -> np.ndarray:
        return self.clampable.clamp(value, array)

    def _node(self, node: ir.Node) -> None:
        operands = [
            None if value is None or not value.name else self.values.get(value.name) for value in node.inputs
        ]
        stem = f"{sanitized(layer_of(node))}_{self.count}"
        self.count += 1
        self.layers[stem] = layer_of(node)
        try:
            results = self._lowered(node, operands, stem)
        except Refusal as refusal:
            self._refused(node, refusal)
            results = self._stand_ins(node)
        except (IndexError, KeyError, TypeError, ValueError) as error:
            words = " ".join(str(error).split())[:200]
            self._refused(node, Refusal(f"its inputs or attributes do not fit together ({words})"))
            results = self._stand_ins(node)
        results = results if isinstance(results, (list, tuple)) else [results]
        for value, result in zip(node.outputs, results, strict=False):
            if value.name and result is not None:
                self.values[value.name] = result
                if not isinstance(result, np.ndarray) and len(result.shape) > MAX_RANK:
                    self._refused(
                        node, Refusal(f"its result has rank {len(result.shape)}, and Core ML stops at 5")
                    )

    def _refused(self, node: ir.Node, refusal: Refusal) -> None:
        op_type = f"{_domain(node)}::{node.op_type}" if _domain(node) else node.op_type
        layer, whole = layer_of(node), node.metadata_props.get(WHOLE_KEY)
        where = whole or f"{op_type} {node.name!r}"
        if whole and where in self.refused_definitions:
            # What follows in a definition from its first obstacle says nothing more.
            return
        self.refused_definitions.add(where)
        if layer != node.name and f"{layer!r}" not in where:
            where = f"{where} (layer {layer})"
        inside = f"its definition needs {op_type}, and " if whole else ""
        reason = f"{where}: {inside}{refusal.reason}"
        if reason in self.reasons:
            # coremltools makes the body of a loop again when it knows more of what is carried.
            return
        self.reasons.append(reason)
        self.fixes.append(refusal.fix)

    def _lowered(self, node: ir.Node, operands: list[Operand | None], stem: str) -> Any:
        domain = _domain(node)
        if domain == "" and node.op_type == "Constant":
            return self._constant(node)
        for value, operand in zip(node.inputs, operands, strict=True):
            if value is not None and value.name and operand is None:
                raise Refusal(f"its input {value.name!r} is not computed by any node before it")
        if domain == "" and node.op_type in REFUSED:
            raise Refusal(*REFUSED[node.op_type])
        if domain == "" and node.op_type in ("If", "Loop"):
            return self.controls.lower(node, operands, stem)
        if all(operand is None or isinstance(operand, np.ndarray) for operand in operands):
            return self._folded(node, operands)
        rule = open_rule(node.op_type, operands) if domain == "" else None
        rule = rule or table().get((domain, node.op_type))
        if rule is None:
            fix = "" if domain != EDGEC_DOMAIN else "keep its function body in the model"
            stays = node.metadata_props.get(STAYS_KEY, "it has no definition in other ops")
            raise Refusal(f"there is no lowering for it, and {stays}", fix)
        with scoped(self.builder, FULL_KEY in node.metadata_props or _counts(node)):
            return rule(Site(node, operands, self.release, stem, self.builder))

    def _constant(self, node: ir.Node) -> np.ndarray:
        tensor = ir.convenience.get_const_tensor(node.outputs[0])
        if tensor is None:
            raise Refusal("its value is not a tensor")
        return self._clamped(node.outputs[0], np.asarray(tensor.numpy()))

    def _folded(self, node: ir.Node, operands: list[Operand | None]) -> list[np.ndarray]:
        """The results of a node whose inputs are all known, by ONNX's reference implementation."""
        from onnx.reference import ReferenceEvaluator

        proto = ir.to_proto(node)
        given = {
            value.name: operand
            for value, operand in zip(node.inputs, operands, strict=True)
            if value is not None
        }
        arrays = {name: array for name, array in given.items() if array is not None}
        inputs = [
            onnx.helper.make_tensor_value_info(
                name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), list(array.shape)
            )
            for name, array in arrays.items()
        ]
        outputs = [onnx.ValueInfoProto(name=name) for name in proto.output if name]
        imports = [
            onnx.helper.make_opsetid(domain, version) for domain, version in self.model.opset_imports.items()
        ]
        try:
            graph = onnx.helper.make_graph([proto], "fold", inputs, outputs)
            evaluator = ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=imports))
            results = dict(zip([value.name for value in outputs], evaluator.run(None, arrays), strict=True))
        except Exception as error:
            raise Refusal(
                f"its constant value cannot be computed ({' '.join(str(error).split())[:200]})"
            ) from error
        return [np.asarray(results[name]) if name else None for name in proto.output]  # type: ignore[misc]

    def _stand_ins(self, node: ir.Node) -> list[Any]:
        """Outputs of a refused node, so that the walk can go on and list what else is wrong."""
        results = []
        for value in node.outputs:
            shape = (
                [size if isinstance(size, int) else 1 for size in value.shape]
                if value.shape is not None
                else [1]
            )
            dtype = np.float32 if value.dtype is None else value.dtype.numpy()
            kind = np.dtype(dtype)
            fill = (
                np.float32(0) if kind.kind == "f" else (np.bool_(False) if kind == np.bool_ else np.int32(0))
            )
            if len(shape) > MAX_RANK or math.prod(shape) == 0:
                shape = [1]
            results.append(self.builder.fill(shape=np.array(shape or [1], np.int32), value=fill))
        return results


def check_size(model: ir.Model) -> None:
    """Refuse a model whose weights do not fit one package.

    Raises:
        RequestError: they are over 2 GB.
    """
    total = sum(
        value.const_value.nbytes
        for value in model.graph.initializers.values()
        if value.const_value is not None
    )
    if total > MAX_BYTES:
        raise RequestError(
            f"the weights take {total / 2**30:.1f} GiB, and this target stops at 2 GiB",
            fix="split the model, or store its weights in float16",
        )
