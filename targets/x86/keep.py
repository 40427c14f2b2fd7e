"""Quantised and bf16 engines with some layers computed in full, to see what each layer's rounding costs.

Of quantised engines only the rounding of activations is taken out: weights stay rounded, which by channel
costs little beside it, and nothing is quantised anew, so that a layer is tried in the time that opening an
engine takes. A layer kept of bf16 has its fp32 weights too, as long as the engine still has them.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx_ir as ir

from edgec.core.errors import JobError
from edgec.core.evaluation import save_model
from edgec.passes.editing import sole_consumer
from edgec.runtime.engine import DESCRIPTION, Engine, EngineDescription
from edgec.runtime.engines import open_engine
from edgec.runtime.openvino_core import import_openvino, new_core, said
from edgec.targets.x86 import bf16


def rounded_layers(folder: Path) -> tuple[str, ...]:
    """The source layers with quantised activations, or of a bf16 engine those that round, in order."""
    description = EngineDescription.read(folder)
    if description.precision == "bf16":
        _core, model = _openvino_model(folder, description)
        full = _written_out(model, description)
        return bf16.rounded_layers(model, description.layers, full)
    if description.kind == "ort":
        model = ir.load(folder / description.model)
        readers = [use.node for node in _pairs(model) for use in node.outputs[0].uses()]
        readers += [product.multiply for product in _integer_products(model)]
        places = {node: place for place, node in enumerate(model.graph)}
        names = (node.name for node in sorted(readers, key=lambda node: places[node]))
    else:
        _core, model = _openvino_model(folder, description)
        names = (
            target.get_node().get_friendly_name()
            for operation in model.get_ordered_ops()
            if operation.get_type_name() == "FakeQuantize"
            for target in operation.output(0).get_target_inputs()
        )
    layers = (description.layers.get(name or "") for name in names)
    return tuple(dict.fromkeys(layer for layer in layers if layer))


def open_keeping(folder: Path, layers: frozenset[str]) -> Engine:
    """Open a quantised or bf16 engine with some source layers unquantised, or in fp32."""
    description = EngineDescription.read(folder)
    with tempfile.TemporaryDirectory(prefix="edgec-keep-") as scratch:
        changed = Path(scratch)
        for extension in description.extensions:
            shutil.copyfile(folder / extension, changed / extension)
        shutil.copyfile(folder / DESCRIPTION, changed / DESCRIPTION)
        try:
            if description.precision == "bf16":
                _keep_bf16(folder, changed, description, layers)
            elif description.kind == "ort":
                _keep_ort(folder, changed, description, layers)
            else:
                _keep_openvino(folder, changed, description, layers)
        except RuntimeError as error:
            kept = ", ".join(sorted(layers)) or "no layer"
            raise JobError(f"{description.kind} does not keep {kept} ({said(error)[0]})") from error
        # The engine has read everything when it is open; what it maps stays until it is closed.
        return open_engine(changed)


def _keep_openvino(
    folder: Path, changed: Path, description: EngineDescription, layers: frozenset[str]
) -> None:
    _core, model = _openvino_model(folder, description)
    for operation in model.get_ordered_ops():
        if operation.get_type_name() != "FakeQuantize":
            continue
        readers = [target.get_node() for target in operation.output(0).get_target_inputs()]
        if any(description.layers.get(reader.get_friendly_name()) in layers for reader in readers):
            operation.output(0).replace(operation.input_value(0))
    import_openvino().save_model(model, str(changed / description.model), compress_to_fp16=False)


def _keep_bf16(folder: Path, changed: Path, description: EngineDescription, layers: frozenset[str]) -> None:
    _core, model = _openvino_model(folder, description)
    bf16.in_bf16(model, description.layers, layers, _written_out(model, description))
    import_openvino().save_model(model, str(changed / description.model), compress_to_fp16=False)
    dataclasses.replace(description, rest="fp32").write(changed)


def _written_out(model: Any, description: EngineDescription) -> frozenset[str]:
    """Bring a model with types of its own back to float32; the operations that must not round."""
    return bf16.in_fp32(model) if description.rest == "fp32" else frozenset()


def _openvino_model(folder: Path, description: EngineDescription) -> tuple[Any, Any]:
    """A core and the model that it read: operations of an extension's live no longer than the core."""
    core = new_core()
    for extension in description.extensions:
        core.add_extension(str((folder / extension).resolve()))
    return core, core.read_model(str(folder / description.model))


def _keep_ort(folder: Path, changed: Path, description: EngineDescription, layers: frozenset[str]) -> None:
    model = ir.load(folder / description.model)
    for node in list(_pairs(model)):
        plain = node.inputs[0].producer().inputs[0]  # type: ignore[union-attr]
        for use in list(node.outputs[0].uses()):
            if description.layers.get(use.node.name or "") in layers:
                use.node.replace_input_with(use.idx, plain)
    for product in _integer_products(model):
        if description.layers.get(product.multiply.name or "") in layers:
            product.in_float32(model)
    save_model(model, changed / description.model)
    layer_names = dataclasses.replace(description, layers={})
    layer_names.write(changed)


def _pairs(model: ir.Model) -> Iterator[ir.Node]:
    """The DequantizeLinear of every QDQ pair around a computed tensor."""
    for node in model.graph:
        if node.op_type != "DequantizeLinear" or node.inputs[0] is None:
            continue
        before = node.inputs[0].producer()
        if before is not None and before.op_type == "QuantizeLinear":
            yield node


@dataclasses.dataclass(frozen=True)
class _IntegerProduct:
    """One dynamically quantised linear layer.

    ::

        x ── DynamicQuantizeLinear ── MatMulInteger(weight) ── Cast ── Mul ── y
                     └ scale ── Mul(weight's scale) ────────────────────┘
    """

    multiply: ir.Node
    given: ir.Value
    weight_scale: ir.Value
    scaled: ir.Node

    def in_float32(self, model: ir.Model) -> None:
        """Multiply x itself with the rounded weight."""
        _, weight, _, zero = self.multiply.inputs
        wide = ir.node("DequantizeLinear", [weight, self.weight_scale, zero], attributes={"axis": -1})
        product = ir.node("MatMul", [self.given, wide.outputs[0]])
        product.outputs[0].shape, product.outputs[0].type = self.scaled.outputs[0].shape, self.given.type
        ir.convenience.replace_nodes_and_values(
            model.graph, self.scaled, [self.scaled], [wide, product], self.scaled.outputs, product.outputs
        )


def _integer_products(model: ir.Model) -> list[_IntegerProduct]:
    """Every dynamically quantised linear layer, as ONNX Runtime's quantiser writes it."""
    found = []
    for node in model.graph:
        rounding = node.inputs[0].producer() if node.op_type == "MatMulInteger" and node.inputs[0] else None
        if rounding is None or rounding.op_type != "DynamicQuantizeLinear" or len(node.inputs) != 4:
            continue
        given = rounding.inputs[0]
        cast = sole_consumer(node.outputs[0])
        scaled = None if cast is None or cast.op_type != "Cast" else sole_consumer(cast.outputs[0])
        if given is None or cast is None or scaled is None or scaled.op_type != "Mul":
            continue
        scales = next((value for value in scaled.inputs if value is not cast.outputs[0]), None)
        both = None if scales is None else scales.producer()
        if both is None or both.op_type != "Mul" or rounding.outputs[1] not in both.inputs:
            continue
        weight_scale = next((value for value in both.inputs if value is not rounding.outputs[1]), None)
        if weight_scale is not None:
            found.append(_IntegerProduct(node, given, weight_scale, scaled))
    return found
