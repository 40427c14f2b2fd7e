"""What one node does with the token axis, and why it needs all tokens where it does."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_graphs import apply, build, i64, weight

from edgec.core.op_traits import UNARY
from edgec.passes.infra import Refusal
from edgec.passes.tokens.readers import read

TOKENS, WIDTH = 24, 8


def step_of(text, axis=1, **numbers):
    """What the last node does with axis `axis` of the inputs that are no constants."""
    if "Attention" in text:
        shapes = ", ".join(f"float[2,3,{TOKENS},{WIDTH}] {name}" for name in "qkv")
    else:
        shapes = f"float[2,{TOKENS},{WIDTH}] x"
    model = build(f"({shapes}) => (y) {{ y = {text} }}", **numbers)
    apply(model, "canonicalize.shapes")
    (node,) = model.graph
    step = read(node, dict.fromkeys(model.graph.inputs, axis))
    return step, node


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("LayerNormalization<axis=1>(x, scale)", "it normalises over tokens"),
        ("RMSNormalization<axis=1>(x, scale)", "it normalises over tokens"),
        ("Add(x, rows)", "'rows' has a value for each token"),
        ("Gather<axis=1>(x, late)", "it picks tokens by their place"),
        ("Gather<axis=1>(x, last)", "it picks tokens by their place"),
        ("ReduceMean(x, tokens)", "it reduces over tokens"),
        ("ReduceMean(x)", "it reduces over tokens"),
        ("Softmax<axis=1>(x)", "it runs over tokens outside an attention"),
        ("Split<axis=1, num_outputs=2>(x)", "it splits the tokens"),
        ("Slice(x, from, to, tokens)", "it cuts the tokens"),
        ("CumSum(x, one)", "CumSum is not known to work token by token"),
    ],
)
def test_what_needs_all_tokens_says_why(text, reason):
    with pytest.raises(Refusal, match=reason):
        step_of(
            text,
            scale=weight(TOKENS, WIDTH),
            rows=weight(TOKENS, 1),
            late=np.array(TOKENS - 4),
            last=np.array(-1),
            tokens=i64(1),
            one=np.array(1),
            **{"from": i64(4), "to": i64(20)},
        )


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ("softcap=2.0", "it caps its logits"),
        ("is_causal=1", "it is causal: its tokens must keep their order"),
    ],
)
def test_an_attention_that_needs_all_tokens_says_why(attributes, reason):
    with pytest.raises(Refusal, match=reason):
        step_of(f"Attention<{attributes}>(q, k, v)", axis=2)


def test_an_attention_keeps_the_axis_of_its_queries():
    step, node = step_of("Attention(q, k, v)", axis=2)
    assert step.carries == {node.outputs[0]: 2}


@settings(max_examples=20, deadline=None)
@given(
    op=st.sampled_from(sorted(UNARY - {"Cast", "CastLike", "Not", "BitwiseNot", "IsInf", "IsNaN", "Swish"}))
)
def test_any_elementwise_op_keeps_the_axis(op):
    step, node = step_of(f"{op}(x)")
    assert step.carries == {node.outputs[0]: 1}


@pytest.mark.parametrize(
    "text",
    ["LayerNormalization(x, scale)", "Add(x, row)", "ReduceMean(x, features)", "Softmax(x)", "MatMul(x, w)"],
)
def test_what_works_token_by_token_keeps_the_axis(text):
    numbers = {"scale": weight(WIDTH), "row": weight(1, WIDTH), "features": i64(2), "w": weight(WIDTH, 5)}
    step, node = step_of(text, **numbers)
    assert step.carries == {node.outputs[0]: 1}


@pytest.mark.parametrize(("index", "singled"), [(0, 1), (2, 3)])
def test_leading_tokens_that_are_picked_must_keep_their_places(index, singled):
    step, _ = step_of("Gather<axis=1>(x, index)", index=np.array(index))
    assert step.carries == {}
    assert step.singled == singled
