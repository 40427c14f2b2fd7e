"""Attention by edgec's own kernel: the same numbers, no transposes left, and what stays with the engine."""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

sys.path.insert(0, str(Path(__file__).parents[1]))
from x86_graphs import graph_of

from edgec.core.dialect import EDGEC_DOMAIN, is_op
from edgec.judging.gates import check
from edgec.passes.infra import MatchLog
from edgec.passes.manager import Pipeline
from edgec.targets import target_named
from edgec.targets.base import Candidate
from edgec.targets.x86.blocked_attention import LONG, BlockedAttention, longest
from edgec.targets.x86.forms import BLOCKED_ATTENTION, forms

FLOAT = onnx.TensorProto.FLOAT


def attention_proto(
    batch: int = 1,
    length: int = 8,
    heads: int = 2,
    depth: int = 8,
    *,
    keys: int | None = None,
    masked: bool = False,
    turned: bool = True,
    attributes: dict | None = None,
    logits: bool = False,
) -> onnx.ModelProto:
    """Queries, keys and values (B, N, H, D) through an `Attention`, and back where `turned`."""
    turn = {"perm": [0, 2, 1, 3]}
    nodes = [
        helper.make_node("Transpose", [name], [f"{name}h"], name=f"turn_{name}", **turn) for name in "qkv"
    ]
    inputs, outputs = ["qh", "kh", "vh"], ["mixed"]
    if masked:
        inputs.append("mask")
    if logits:
        outputs += ["", "", "logits"]
    nodes.append(helper.make_node("Attention", inputs, outputs, name="attention", **(attributes or {})))
    if turned:
        nodes.append(helper.make_node("Transpose", ["mixed"], ["y"], name="back", **turn))
    else:
        nodes.append(helper.make_node("Identity", ["mixed"], ["y"], name="out"))
    shapes = {"q": length, "k": keys or length, "v": keys or length}
    given = [
        helper.make_tensor_value_info(name, FLOAT, [batch, size, heads, depth])
        for name, size in shapes.items()
    ]
    if masked:
        given.append(helper.make_tensor_value_info("mask", FLOAT, [batch, 1, length, keys or length]))
    made = [helper.make_tensor_value_info("y", FLOAT, None)]
    if logits:
        made.append(helper.make_tensor_value_info("logits", FLOAT, None))
    graph = helper.make_graph(nodes, "attention", given, made)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)
    return onnx.shape_inference.infer_shapes(proto)


def rewritten(proto: onnx.ModelProto) -> tuple[ir.Model, MatchLog]:
    model, log = ir.from_proto(proto), MatchLog()
    BlockedAttention().apply(model, log)
    return model, log


@settings(max_examples=12, deadline=None)
@given(
    batch=st.integers(1, 3),
    length=st.integers(1, 130),
    heads=st.integers(1, 4),
    depth=st.sampled_from([4, 20, 32, 64]),
    scale=st.sampled_from([None, 0.05]),
    turned=st.booleans(),
)
def test_the_kernel_computes_what_the_attention_does(
    tmp_path_factory, batch, length, heads, depth, scale, turned
):
    attributes = {} if scale is None else {"scale": scale}
    proto = attention_proto(batch, length, heads, depth, turned=turned, attributes=attributes)
    graph = graph_of(proto)
    target, candidate = target_named("x86:openvino"), Candidate("openvino", "fp32", BLOCKED_ATTENTION)
    lowered = target.lower(graph, candidate)
    kinds = [node.op_type for node in lowered.model.graph]
    assert kinds.count("VarlenAttention") == 1
    assert kinds.count("Transpose") == (0 if turned else 1)
    folder = tmp_path_factory.mktemp("engine")
    target.build(lowered, candidate, folder)
    engine = target.open(folder)
    try:
        gate = check(graph, engine.run, stage="blocked", precision="fp32")
    finally:
        engine.close()
    assert gate.passed, gate


@pytest.mark.parametrize(
    ("proto", "reason"),
    [
        (attention_proto(keys=5), "differ in shape"),
        (attention_proto(masked=True), "mask or a past"),
        (attention_proto(attributes={"is_causal": 1}), "causal"),
        (attention_proto(attributes={"softcap": 2.0}), "cap"),
        (attention_proto(logits=True), "logits"),
    ],
    ids=["cross", "mask", "causal", "cap", "logits"],
)
def test_what_the_kernel_cannot_do_stays_and_says_why(proto, reason):
    model, log = rewritten(proto)
    assert not any(node.domain == EDGEC_DOMAIN for node in model.graph)
    assert len(log.misses) == 1
    assert reason in str(log.misses[0])
    assert longest(ir.from_proto(proto)) == 0


def test_the_form_is_tried_where_sequences_are_long_and_before_the_others():
    def found(length: int, precision: str = "fp32") -> list[str]:
        model = ir.from_proto(attention_proto(length=length))
        return forms(graph_of(attention_proto(length=4)).with_model(model), "openvino", precision)

    assert found(LONG)[0] == BLOCKED_ATTENTION
    assert BLOCKED_ATTENTION in found(LONG, "bf16")
    assert BLOCKED_ATTENTION not in found(LONG - 1)


def test_order_with_the_passes_behind_it():
    model = ir.from_proto(attention_proto(turned=False))
    [report] = Pipeline([BlockedAttention()]).run(model)
    assert report.matched == 1
    assert sum(is_op(node, "Transpose") for node in model.graph) == 1
