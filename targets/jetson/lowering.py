"""From the neutral dialect to the ONNX of one TensorRT release, still in fp32."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnx
import onnx_ir as ir

from edgec.core.dialect import EDGEC_DOMAIN, is_op, source_layer
from edgec.core.errors import UnsupportedError
from edgec.passes.decompose.attention import DecomposeAttention
from edgec.passes.decompose.col2im import DecomposeCol2Im
from edgec.passes.decompose.parts import STAYS_KEY
from edgec.passes.decompose.plugins import DecomposePlugins
from edgec.passes.decompose.pool_indices import DecomposePoolIndices
from edgec.passes.decompose.quantised import DecomposeQuantised
from edgec.passes.decompose.sampled import DecomposeSampled
from edgec.passes.decompose.scatter_add import DecomposeScatterAdd
from edgec.passes.decompose.spectrum import DecomposeSpectrum
from edgec.passes.editing import Editor, attribute, constant, sizes
from edgec.passes.infra import Pass, registered
from edgec.passes.manager import Pipeline
from edgec.plugins.bindings import tensorrt
from edgec.plugins.infra import plugins
from edgec.targets.jetson.bytes import BytesAsFloats
from edgec.targets.jetson.definitions import Definitions
from edgec.targets.jetson.integers import FloatOnly
from edgec.targets.jetson.one_query import OneQuery
from edgec.targets.jetson.opset import lower_opset
from edgec.targets.jetson.readable import Readable, misread
from edgec.targets.jetson.sites import fits_kernel, head_size
from edgec.targets.jetson.versions import Dialect


def lower(
    model: ir.Model, dialect: Dialect, *, native_attention: bool, keep: frozenset[str] = frozenset()
) -> ir.Model:
    """A model of the neutral dialect in a release's dialect; the given model is left as it is.

    Args:
        model: the model.
        dialect: what the release takes.
        native_attention: whether `Attention` may stay, in a dialect that knows it: only where it will be
            fp16, for the builder refuses it in fp32.
        keep: ops of `ai.edgec` that stay, as a plugin runs them, where its kernel takes the sizes.

    Raises:
        UnsupportedError: something has no form in the dialect; lists all of it.
    """
    copy = model.clone()
    narrow_doubles(copy)
    native = native_attention and dialect.native_attention
    Pipeline(_passes(copy, dialect, native, keep)).run(copy)
    _infer(copy)
    Pipeline([*_parts(dialect), DecomposeQuantised(symmetric=True), BytesAsFloats()]).run(copy)
    steps = [OneQuery(wrong=not dialect.one_query), Definitions(dialect.ops), FloatOnly(dialect.float_only)]
    Pipeline(steps).run(copy)
    _name_plugins(copy)
    older = lower_opset(copy, dialect.opset)
    Pipeline([Readable(dialect)]).run(copy)
    _refuse(dialect, _one_a_node([*obstacles(copy, dialect, keep), *older]))
    return copy


def check(model: ir.Model, dialect: Dialect, keep: frozenset[str] = frozenset()) -> None:
    """See that a lowered model, with its precision written in, is still what the release takes.

    Raises:
        UnsupportedError: something in it is refused or misread there; lists all of it.
    """
    _refuse(dialect, _one_a_node(obstacles(model, dialect, keep)))


def _refuse(dialect: Dialect, reasons: list[str]) -> None:
    if reasons:
        raise UnsupportedError(
            f"TensorRT {dialect.version}", reasons, fix="rewrite these layers in ops that this TensorRT has"
        )


def _passes(model: ir.Model, dialect: Dialect, native: bool, keep: frozenset[str]) -> list:  # type: ignore[type-arg]
    from edgec.passes.decompose import load_passes

    load_passes()
    known = registered()
    steps: list = [DecomposePlugins(keep, tensorrt.obstacle)]  # type: ignore[type-arg]
    if native:
        split_attention(model, {node for node in model.graph if _needs_parts(node)})
    else:
        steps.append(known["decompose.attention"]())
    replacements = (
        ("RMSNormalization", "decompose.rms_norm"),
        ("RotaryEmbedding", "decompose.rotary_embedding"),
        ("Gelu", "decompose.gelu"),
        ("LayerNormalization", "decompose.layer_norm"),
    )
    return steps + [known[name]() for op_type, name in replacements if op_type not in dialect.ops]


def _parts(dialect: Dialect) -> list[Pass]:
    """The rewrites of ops that this parser lacks, and of those that TensorRT computes wrongly."""
    lacking: list[tuple[str, Pass]] = [
        ("STFT", DecomposeSpectrum()),
        ("Col2Im", DecomposeCol2Im()),
        ("DeformConv", DecomposeSampled(frozenset({"DeformConv"}))),
    ]
    steps = [step for op_type, step in lacking if op_type not in dialect.ops]
    return [*steps, DecomposeScatterAdd(), DecomposePoolIndices()]


def _name_plugins(model: ir.Model) -> None:
    """Write to a plugin's node what the parser finds its creator by: the op type and these attributes."""
    kernels = tensorrt.cuda_kernels()
    for node in model.graph.all_nodes():
        if node.domain == EDGEC_DOMAIN and node.op_type in kernels:
            node.attributes["plugin_namespace"] = ir.AttrString("plugin_namespace", tensorrt.NAMESPACE)
            node.attributes["plugin_version"] = ir.AttrString("plugin_version", tensorrt.VERSION)


def _needs_parts(node: ir.Node) -> bool:
    """Whether an `Attention` cannot stay one node.

    The importer refuses more than one output, a past, a cap, and values of another head size than the keys;
    the builder refuses head sizes that it has no kernel for, single queries, and one head of one sample
    (tensorrt-rtx 1.7.1 for SM86, seen at head sizes 32 to 128). Queries and keys that are one tensor crash it
    (signal 11; keys and values may be one).
    """
    if not is_op(node, "Attention"):
        return False
    query, key, value = (sizes(operand) for operand in node.inputs[:3])
    if node.inputs[0] is node.inputs[1] or not fits_kernel(head_size(node)):
        return True
    if query is None or query[-2] == 1 or key is None or value is None or key[-1] != value[-1]:
        return True
    heads = query[1] if len(query) == 4 else attribute(node, "q_num_heads")
    if heads == 1 and query[0] in (1, None):
        return True
    used = [value for value in node.outputs[1:] if value.uses() or value.is_graph_output()]
    past = len(node.inputs) > 4 and any(value is not None for value in node.inputs[4:])
    return bool(used) or past or bool(attribute(node, "softcap", 0.0))


def split_attention(model: ir.Model, nodes: Collection[ir.Node]) -> None:
    """Decompose some attentions, in place, and leave the others native."""
    if not nodes:
        return
    whole = [node for node in model.graph if is_op(node, "Attention") and node not in nodes]
    for node in whole:
        node.op_type = "NativeAttention"
    try:
        Pipeline([DecomposeAttention()]).run(model)
    finally:
        for node in whole:
            node.op_type = "Attention"


def _one_a_node(lines: Sequence[str]) -> list[str]:
    """The first line of each node: what has no importer has no older form either, which helps nobody."""
    found: dict[str, str] = {}
    for line in lines:
        found.setdefault(line.partition("): ")[0], line)
    return list(found.values())


def _infer(model: ir.Model) -> None:
    """Give values their shapes and types where the passes left them out."""
    from onnx_ir.passes.common import ShapeInferencePass

    _bind_defaults(model)
    ShapeInferencePass()(model)


def _bind_defaults(model: ir.Model) -> None:
    """Write the attributes' defaults to nodes that ONNX defines by other ops.

    Its shape inference and its inliner look into the definition, which then lacks them (onnx 1.23).
    """
    for node in model.graph.all_nodes():
        if node.domain != "" or not onnx.defs.has(node.op_type):
            continue
        schema = onnx.defs.get_schema(node.op_type, model.opset_imports[""])
        # The stubs of onnx leave these two out.
        if not (schema.has_function or schema.has_context_dependent_function):  # type: ignore[attr-defined]
            continue
        for name, attribute_schema in schema.attributes.items():
            if attribute_schema.default_value.name and name not in node.attributes:
                node.attributes[name] = ir.serde.deserialize_attribute(attribute_schema.default_value)


def obstacles(model: ir.Model, dialect: Dialect, keep: frozenset[str] = frozenset()) -> list[str]:
    """Everything of a lowered model that the release does not take, one line each."""
    found: list[str] = []
    for kind, values in (("input", model.graph.inputs), ("output", model.graph.outputs)):
        for value in values:
            if value.dtype in (ir.DataType.DOUBLE, ir.DataType.STRING, ir.DataType.COMPLEX64):
                found.append(f"{kind} {value.name!r} is {value.dtype.name.lower()}")
    for node in model.graph.all_nodes():
        said = _obstacle(node, dialect, keep, model.opset_imports[""])
        if said:
            name = node.op_type if not node.domain else f"{node.domain}::{node.op_type}"
            found.append(f"{name} {node.name!r} (layer {source_layer(node)}): {said}")
    return found


def _obstacle(node: ir.Node, dialect: Dialect, keep: frozenset[str], opset: int) -> str:
    if node.domain == EDGEC_DOMAIN and node.op_type in plugins():
        return "" if node.op_type in keep else "it has no plugin"
    if node.domain != "":
        return "its domain is unknown"
    stays = node.metadata_props.get(STAYS_KEY, "")
    if node.op_type not in dialect.ops:
        return "the parser does not know the op" + (f", and {stays}" if stays else "")
    overlooked = misread(node, dialect, opset)
    if overlooked:
        return f"the parser overlooks its {' and '.join(overlooked)} and says nothing"
    if node.op_type in ("ScatterElements", "ScatterND", "Scatter"):
        reduction = attribute(node, "reduction", "none")
        if reduction != "none":
            wrong = f"TensorRT computes a scatter with reduction {reduction!r} wrongly and says nothing"
            return f"{wrong}, and {stays}" if stays else wrong
    if node.op_type == "MaxPool" and len(node.outputs) > 1:
        indices = node.outputs[1]
        if indices.uses() or indices.is_graph_output():
            return f"its indices are read, and {stays}" if stays else "its indices are read"
    axes_place = {"Slice": 3, "ReduceSum": 1, "Squeeze": 1, "Unsqueeze": 1, "CumSum": 1}.get(node.op_type)
    if node.op_type in dialect.constant_axes and axes_place is not None and axes_place < len(node.inputs):
        axes = node.inputs[axes_place]
        if axes is not None and constant(axes) is None:
            return "its axes are computed"
    for value in node.outputs:
        if value.dtype == ir.DataType.DOUBLE:
            return f"{value.name!r} is float64"
        shape = sizes(value)
        if shape is not None and len(shape) > 8:
            return f"{value.name!r} has rank {len(shape)}, above 8"
    return ""


def narrow_doubles(model: ir.Model) -> None:
    """Compute in fp32 what the graph computes in float64 inside: TensorRT has no float64.

    Inputs and outputs of float64 stay; `obstacles` refuses them.
    """
    editor = Editor(model, "jetson.narrow_doubles")
    edges = {*model.graph.inputs, *model.graph.outputs}
    if any(value.dtype == ir.DataType.DOUBLE for value in edges):
        return
    for value in list(model.graph.initializers.values()):
        array = constant(value)
        if array is not None and array.dtype == "float64":
            narrow = editor.initializer(array.astype("float32"), f"{value.name}/fp32")
            ir.convenience.replace_all_uses_with(value, narrow)
    for node in model.graph.all_nodes():
        if attribute(node, "to") == int(ir.DataType.DOUBLE):
            node.attributes["to"] = ir.AttrInt64("to", int(ir.DataType.FLOAT))
        for output in node.outputs:
            if output.dtype == ir.DataType.DOUBLE:
                output.type = ir.TensorType(ir.DataType.FLOAT)
    editor.remove_dead()


__all__ = ["check", "lower", "narrow_doubles", "obstacles"]
