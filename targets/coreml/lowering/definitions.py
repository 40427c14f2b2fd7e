"""Ops that Core ML knows only by their definition: functions of the ONNX standard and of `ai.edgec`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx
import onnx.inliner
import onnx.shape_inference
import onnx_ir as ir

from edgec.core.dialect import EDGEC_DOMAIN, SOURCE_KEY, is_op
from edgec.passes.decompose.col2im import DecomposeCol2Im
from edgec.passes.decompose.pool_indices import DecomposePoolIndices
from edgec.passes.decompose.sampled import DecomposeSampled
from edgec.passes.decompose.spectrum import DecomposeSpectrum
from edgec.passes.manager import Pipeline
from edgec.plugins.infra import plugins
from edgec.targets.coreml.lowering.table import REFUSED, table

WHOLE_KEY = "edgec.whole"
"""Node metadata: the node of whose definition this one is a part, as messages name it."""

_IN_PARTS = ("DFT", "STFT", "Col2Im", "RoiAlign", "DeformConv", "MaxPool", "MaxUnpool")

_DEEPEST = 8
"""Definitions that use ops with definitions are expanded so many levels deep."""


def expanded(model: ir.Model) -> ir.Model:
    """The model with every op that has no rule replaced by its definition, where it has one.

    ::

        x ── Celu ── y      ⇒      x ── Div(alpha) ── Elu ── Mul(alpha) ── y

    Functions of the model (as `ai.edgec` ops carry them) and of the ONNX standard count alike. Attributes
    that a node leaves to their defaults are written out first. What replaces a node says so in its metadata
    (`WHOLE_KEY`) and has its source layer.
    """
    model = _in_parts(with_bodies(model))
    refused: set[tuple[str, str]] = set()
    for _ in range(_DEEPEST):
        local = {(key[0], key[1]) for key in model.functions}
        known = {
            name for name in _missing(model) - refused if name in local or _has_schema_function(name, model)
        }
        if not known:
            break
        proto = onnx.shape_inference.infer_shapes(ir.to_proto(model))
        _bind_defaults(proto, known)
        for name in sorted(known):
            try:
                inlined = onnx.inliner.inline_selected_functions(proto, [name], False, True)
            except RuntimeError:
                # A definition that depends on types which shape inference does not find.
                refused.add(name)
                continue
            if any(_name(node) == name for node in inlined.graph.node):
                refused.add(name)
            _attribute(proto.graph.node, inlined.graph.node, name)
            proto = inlined
        model = ir.from_proto(_named(proto))
    return model


def _in_parts(model: ir.Model) -> ir.Model:
    """The model with the ops that Core ML has parts of written in them; itself where it uses none."""
    if not any(is_op(node, *_IN_PARTS) for node in model.graph):
        return model
    copy = model.clone()
    Pipeline([DecomposeSpectrum(), DecomposeCol2Im(), DecomposeSampled(), DecomposePoolIndices()]).run(copy)
    return copy


def with_bodies(model: ir.Model) -> ir.Model:
    """The model with the function bodies of the `ai.edgec` ops that it uses; itself if it has them all."""
    used = {node.op_type for node in model.graph.all_nodes() if node.domain == EDGEC_DOMAIN}
    known = {function.name for function in model.functions.values() if function.domain == EDGEC_DOMAIN}
    bodies = plugins()
    lacking = sorted(op_type for op_type in used - known if op_type in bodies)
    if not lacking:
        return model
    copy = model.clone()
    for op_type in lacking:
        function = bodies[op_type].function()
        copy.functions[function.identifier()] = function
        for domain, version in function.opset_imports.items():
            copy.opset_imports.setdefault(domain, version)
    return copy


def _missing(model: ir.Model) -> set[tuple[str, str]]:
    names = {
        ("" if node.domain == "ai.onnx" else node.domain, node.op_type) for node in model.graph.all_nodes()
    }
    own = {("", "If"), ("", "Loop")}
    known = own | table().keys()
    return {name for name in names if name not in known and not (name[0] == "" and name[1] in REFUSED)}


def _has_schema_function(name: tuple[str, str], model: ir.Model) -> bool:
    domain, op_type = name
    version = model.opset_imports.get(domain, 1)
    try:
        schema = onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return False
    return bool(schema.has_function or schema.has_context_dependent_function)


def _bind_defaults(proto: onnx.ModelProto, names: Iterable[tuple[str, str]]) -> None:
    """Write out the attributes left to their defaults: the inliner binds only what is there."""
    defaults = {name: list(_defaults(proto, name)) for name in names}
    for node in proto.graph.node:
        given = {attribute.name for attribute in node.attribute}
        node.attribute.extend(one for one in defaults.get(_name(node), ()) if one.name not in given)


def _defaults(proto: onnx.ModelProto, name: tuple[str, str]) -> Iterator[onnx.AttributeProto]:
    for function in proto.functions:
        if (function.domain, function.name) == name:
            yield from function.attribute_proto
            return
    version = next((one.version for one in proto.opset_import if one.domain in (name[0], "ai.onnx")), 1)
    for attribute in onnx.defs.get_schema(name[1], version, name[0]).attributes.values():
        if attribute.default_value.name:
            yield attribute.default_value


def _attribute(
    before: Iterable[onnx.NodeProto], after: Iterable[onnx.NodeProto], name: tuple[str, str]
) -> None:
    """Mark what stands in the place of the named op's nodes; all others come in the order they had."""
    made = iter(after)
    for node in before:
        if _name(node) != name:
            next(made, None)
            continue
        owed = {output for output in node.output if output}
        layer = next((one.value for one in node.metadata_props if one.key == SOURCE_KEY), node.name)
        whole = next((one.value for one in node.metadata_props if one.key == WHOLE_KEY), "")
        while owed:
            part = next(made, None)
            if part is None:
                return
            owed -= set(part.output)
            _set(part, SOURCE_KEY, layer)
            _set(part, WHOLE_KEY, whole or f"{node.op_type} {node.name!r}")


def _set(node: onnx.NodeProto, key: str, text: str) -> None:
    for one in node.metadata_props:
        if one.key == key:
            one.value = text
            return
    node.metadata_props.add(key=key, value=text)


def _named(proto: onnx.ModelProto) -> onnx.ModelProto:
    for index, node in enumerate(proto.graph.node):
        if not node.name:
            node.name = f"{node.op_type}_{index}"
    return onnx.shape_inference.infer_shapes(proto)


def _name(node: onnx.NodeProto) -> tuple[str, str]:
    return "" if node.domain == "ai.onnx" else node.domain, node.op_type
