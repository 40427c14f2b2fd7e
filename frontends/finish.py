"""The last steps that every frontend shares: from a loaded ONNX model to edgec's dialect."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common

from edgec.core.dialect import EDGEC_DOMAIN, IR_VERSION
from edgec.core.graph import Arrays, Semantics, TensorSpec, tensor_spec
from edgec.frontends.layer_names import name_layers
from edgec.frontends.opset import convert, softmaxes_without_rank
from edgec.frontends.quiet import quiet


def inline(model: ir.Model) -> None:
    """Put the bodies of model-local functions in place of their calls; `ai.edgec` stays whole."""
    ir.passes.common.InlinePass(criteria=lambda function: function.domain != EDGEC_DOMAIN)(model)
    for key in [key for key in model.functions if key[0] != EDGEC_DOMAIN]:
        del model.functions[key]


def to_dialect(model: ir.Model, *, where: str, modules: Collection[str] = (), wrapper: str = "") -> None:
    """Inline functions, convert the opset, name nodes and source layers, in place.

    Args:
        model: the model as loaded.
        where: the source, for messages.
        modules: names of the source's modules, where it is one.
        wrapper: attribute under which the exported wrapper held the source.

    Raises:
        RequestError: the opset cannot be converted.
    """
    with quiet():
        inline(model)
        if next(softmaxes_without_rank(model), None) is not None:
            ir.passes.common.ShapeInferencePass(check_type=False, strict_mode=False)(model)
    convert(model, where)
    model.ir_version = IR_VERSION
    used = {node.domain for node in model.graph.all_nodes()} | {""}
    for domain in [domain for domain in model.opset_imports if domain not in used]:
        del model.opset_imports[domain]
    if wrapper:
        _unwrap_initializers(model, wrapper)
    name_layers(model, modules=modules, wrapper=wrapper)
    model.producer_name, model.producer_version = "edgec", None
    model.domain, model.model_version, model.graph.name = None, None, "main"


def _unwrap_initializers(model: ir.Model, wrapper: str) -> None:
    taken = {value.name for node in model.graph.all_nodes() for value in node.outputs}
    taken.update(model.graph.initializers)
    for name, value in list(model.graph.initializers.items()):
        bare = name.removeprefix(f"{wrapper}.")
        if bare != name and bare not in taken:
            taken.add(bare)
            value.name = bare


def set_input_shapes(model: ir.Model, specs: Sequence[TensorSpec]) -> None:
    """Give the inputs the shapes of their specs; an open dimension that became a size does so everywhere."""
    sizes: dict[str, int | str] = {}
    by_name = {spec.name: spec for spec in specs}
    for value in model.graph.inputs:
        spec = by_name[value.name or ""]
        if value.shape is not None:
            for old, new in zip(value.shape, spec.shape, strict=True):
                if isinstance(old, ir.SymbolicDim) and old.value is not None:
                    sizes[old.value] = new
        value.shape = ir.Shape(spec.shape)
    if not sizes:
        return
    for node in model.graph.all_nodes():
        for output in node.outputs:
            if output.shape is not None and not output.shape.is_static():
                output.shape = ir.Shape(
                    [
                        sizes.get(size.value, size)
                        if isinstance(size, ir.SymbolicDim) and size.value
                        else size
                        for size in output.shape
                    ]
                )


def set_output_shapes(model: ir.Model, references: Sequence[Arrays]) -> None:
    """Give the outputs the shapes and dtypes that the source's own outputs have."""
    for value in model.graph.outputs:
        name = value.name or ""
        arrays = [reference[name] for reference in references if name in reference]
        if not arrays:
            continue
        sizes: list[int | str] = []
        for axis in range(arrays[0].ndim):
            seen = {array.shape[axis] for array in arrays}
            # A file may say another rank than it computes.
            fits = value.shape is not None and len(value.shape) == arrays[0].ndim
            known = value.shape[axis] if fits and value.shape is not None else None
            if isinstance(known, ir.SymbolicDim) and known.value and not _all_inputs_fixed(model):
                sizes.append(known.value)
            elif len(seen) == 1 and (isinstance(known, int) or _all_inputs_fixed(model)):
                sizes.append(seen.pop())
            else:
                sizes.append(f"{name}_{axis}")
        value.shape = ir.Shape(sizes)
        value.type = ir.TensorType(ir.DataType.from_numpy(np.dtype(arrays[0].dtype)))


def _all_inputs_fixed(model: ir.Model) -> bool:
    return all(value.shape is not None and value.shape.is_static() for value in model.graph.inputs)


def input_specs(model: ir.Model, semantics: Mapping[str, Semantics]) -> tuple[TensorSpec, ...]:
    """The specs of the model's inputs, with what they mean."""
    return tuple(
        tensor_spec(value, semantics.get(value.name or "", "unknown")) for value in model.graph.inputs
    )
