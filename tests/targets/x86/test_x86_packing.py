"""Batches without padding: exact where padded places are read by nobody, else left alone with the reason."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "passes" / "tokens"))
from encoders import CHANNELS, Encoder, run

from edgec.core.dialect import is_op
from edgec.passes.manager import Pipeline
from edgec.targets.x86.pack_tokens import PackTokens, packable


def feeds_of(encoder: Encoder, real: int, seed: int = 1) -> dict[str, np.ndarray]:
    drawn = np.random.default_rng(seed)
    return {
        "patches": drawn.normal(size=(1, encoder.patches, CHANNELS)).astype(np.float32),
        "mask": (np.arange(encoder.patches) < real).astype(np.float32)[None],
    }


def pack(model: ir.Model):  # type: ignore[no-untyped-def]
    [report] = Pipeline([PackTokens()]).run(model)
    return report


@pytest.mark.parametrize("post_norm", [False, True])
@pytest.mark.parametrize("real", [1, 5, 17])
def test_real_tokens_alone_give_the_same(post_norm: bool, real: int) -> None:
    encoder = Encoder(patches=17, learned=0, masked=True, post_norm=post_norm)
    model, packed = encoder.model(), encoder.model()
    assert packable(packed)
    assert pack(packed).matched == encoder.blocks
    feeds = feeds_of(encoder, real)
    np.testing.assert_allclose(run(packed, feeds), run(model, feeds), rtol=1e-5, atol=1e-5)


def test_every_product_sees_the_packed_rows() -> None:
    packed = Encoder(patches=17, learned=0, masked=True).model()
    pack(packed)
    assert sum(node.op_type == "PackTokens" for node in packed.graph) == 1
    assert sum(node.op_type == "UnpackTokens" for node in packed.graph) == 1
    assert not any(is_op(node, "Attention") for node in packed.graph)
    rows = [node.inputs[0].shape for node in packed.graph if is_op(node, "MatMul")]
    assert sum(len(shape) == 3 and not isinstance(shape[1], int) for shape in rows) == 6 * 3


@pytest.mark.parametrize(
    ("head", "reason"), [("dense", "padded places too"), ("mean", "reads padded places too")]
)
def test_outputs_of_padded_places_are_kept(head: str, reason: str) -> None:
    encoder = Encoder(patches=17, learned=0, masked=True, head=head)
    model = encoder.model()
    assert not packable(model)
    report = pack(model)
    assert report.matched == 0
    assert any(reason in miss.reason for miss in report.missed)


def test_a_network_without_a_mask_is_left_alone() -> None:
    assert not packable(Encoder(patches=17).model())


@pytest.mark.parametrize("what", ["heads parted", "tokens repeated"])
def test_views_inside_a_block_are_packed_or_left_alone(what: str) -> None:
    encoder = Encoder(patches=17, learned=0, masked=True)
    model = encoder.model()
    [query] = [node for node in model.graph if node.name == "qt1"]
    readers = list(query.outputs[0].uses())
    shape = query.outputs[0].shape
    if what == "heads parted":
        # (1, H, N, D) seen as (1, H, N, 2, D / 2) and back.
        targets = [[1, 2, 17, 2, 3], [1, 2, 17, 6]]
        ops = ["Reshape", "Reshape"]
    else:
        targets, ops = [[1, 2, 17, 6]], ["Expand"]
    value = query.outputs[0]
    for target, op_type in zip(targets, ops, strict=True):
        held = ir.Value(name=f"target_{len(target)}", const_value=ir.tensor(np.array(target, np.int64)))
        held.shape, held.type = ir.Shape([len(target)]), ir.TensorType(ir.DataType.INT64)
        held.const_value.name = held.name
        model.graph.register_initializer(held)
        node = ir.node(op_type, [value, held], name=f"view_{len(target)}")
        node.outputs[0].shape, node.outputs[0].type = ir.Shape(target), query.outputs[0].type
        node.outputs[0].name = f"viewed_{len(target)}"
        node.metadata_props.update(query.metadata_props)
        behind = value.producer()
        model.graph.insert_after(behind, node)
        value = node.outputs[0]
    for use in readers:
        use.node.replace_input_with(use.idx, value)
    assert shape == value.shape
    packed = model.clone()
    assert packable(packed) is (what == "heads parted")
    pack(packed)
    feeds = feeds_of(encoder, 9)
    np.testing.assert_allclose(run(packed, feeds), run(model, feeds), rtol=1e-5, atol=1e-5)
