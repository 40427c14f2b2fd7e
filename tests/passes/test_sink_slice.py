import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_graphs import build, check, f32, i64, ops, reasons, weight

from edgec.passes.editing import sizes

SINK = ("canonicalize.sink_slice", "canonicalize.settle", "canonicalize.dead")
NAME = SINK[0]
TOKENS, WIDTH, HEADS = 7, 8, 2


def weights(blocks=1):
    numbers = {
        "four": i64(1, TOKENS, HEADS, WIDTH // HEADS),
        "three": i64(1, TOKENS, WIDTH),
        "parts": i64(WIDTH, WIDTH, WIDTH),
        "head": weight(WIDTH, 5),
        "index": np.array(0),
        "one": np.array(1),
        "g": weight(WIDTH, seed=20),
        "b": weight(WIDTH, seed=21),
    }
    for block in range(blocks):
        shapes = {"qkv": (WIDTH, 3 * WIDTH), "proj": (WIDTH, WIDTH), "up": (WIDTH, 16), "down": (16, WIDTH)}
        for seed, (name, shape) in enumerate(shapes.items()):
            numbers[f"{name}{block}"] = weight(*shape, seed=seed + 10 * block)
        numbers[f"bias{block}"] = weight(3 * WIDTH, seed=block)
    return numbers


def block(x, y, n, mask=""):
    return f"""
    {y}l = LayerNormalization<axis=-1>({x}, g, b)
    {y}p = MatMul({y}l, qkv{n})
    {y}a = Add({y}p, bias{n})
    {y}q, {y}k, {y}v = Split<axis=2>({y}a, parts)
    {y}q4 = Reshape({y}q, four)
    {y}k4 = Reshape({y}k, four)
    {y}v4 = Reshape({y}v, four)
    {y}qt = Transpose<perm=[0,2,1,3]>({y}q4)
    {y}kt = Transpose<perm=[0,2,1,3]>({y}k4)
    {y}vt = Transpose<perm=[0,2,1,3]>({y}v4)
    {y}at = Attention({y}qt, {y}kt, {y}vt{mask})
    {y}am = Transpose<perm=[0,2,1,3]>({y}at)
    {y}ar = Reshape({y}am, three)
    {y}o = MatMul({y}ar, proj{n})
    {y}r = Add({x}, {y}o)
    {y}n = LayerNormalization<axis=-1>({y}r, g, b)
    {y}u = MatMul({y}n, up{n})
    {y}s = Gelu({y}u)
    {y}d = MatMul({y}s, down{n})
    {y} = Add({y}r, {y}d)
    """


HEAD = "n = LayerNormalization<axis=-1>({0}, g, b)\n c = Gather<axis=1>(n, index)\n y = MatMul(c, head)"


def macs(model):
    """Multiply-accumulates of products and attentions."""
    total = 0
    for node in model.graph:
        shapes = [sizes(value) for value in node.inputs]
        if node.op_type == "MatMul":
            total += math.prod(sizes(node.outputs[0])) * shapes[0][-1]
        elif node.op_type == "Attention":
            total += 2 * math.prod(shapes[0]) * shapes[1][-2]
    return total


def test_the_last_block_works_for_the_class_token_alone():
    numbers = weights(2)
    body = block("x", "e", 0) + block("e", "f", 1) + HEAD.format("f")
    model = build(f"(float[1,{TOKENS},{WIDTH}] x) => (float[1,5] y) {{ {body} }}", **numbers)
    before = 4 * TOKENS * WIDTH * WIDTH + 2 * TOKENS * WIDTH * 16 + 2 * TOKENS * TOKENS * WIDTH
    report = check(model, *SINK)[NAME]
    # Left of the last block: K and V of all tokens, everything else for one.
    last = 2 * TOKENS * WIDTH * WIDTH + 2 * WIDTH * WIDTH + 2 * WIDTH * 16 + 2 * TOKENS * WIDTH
    assert macs(model) == before + last + WIDTH * 5
    assert report.matched == 10
    assert ops(model)["Slice"] == 2  # of the residual and of what is projected
    attention = [node for node in model.graph if node.op_type == "Attention"][-1]
    assert [sizes(value)[2] for value in attention.inputs] == [1, TOKENS, TOKENS]


def test_an_open_batch():
    body = block("x", "e", 0) + HEAD.format("e")
    numbers = {**weights(), "four": i64(0, 0, HEADS, WIDTH // HEADS), "three": i64(0, 0, WIDTH)}
    model = build(f"(float[batch,{TOKENS},{WIDTH}] x) => (float[batch,5] y) {{ {body} }}", **numbers)
    assert check(model, *SINK)[NAME].matched == 10


@pytest.mark.parametrize("row", [0, 4])
def test_a_query_mask_is_narrowed_with_the_queries(row):
    body = block("x", "e", 0, ", mask") + HEAD.format("e")
    model = build(
        f"(float[1,{TOKENS},{WIDTH}] x) => (float[1,5] y) {{ {body} }}",
        mask=weight(1, 1, TOKENS, TOKENS),
        **{**weights(), "index": np.array(row)},
    )
    assert check(model, *SINK)[NAME].matched == 10


def test_separate_projections():
    split = "eq, ek, ev = Split<axis=2>(ea, parts)"
    body = block("x", "e", 0).replace("ep = MatMul(el, qkv0)", "").replace("ea = Add(ep, bias0)", "")
    body = body.replace(split, "eq = MatMul(el, wq)\n ek = MatMul(el, wk)\n ev = MatMul(el, wv)")
    three = {name: weight(WIDTH, WIDTH, seed=i) for i, name in enumerate(("wq", "wk", "wv"))}
    model = build(
        f"(float[1,{TOKENS},{WIDTH}] x) => (float[1,5] y) {{ {body + HEAD.format('e')} }}",
        **weights(),
        **three,
    )
    check(model, *SINK)
    queries = [node for node in model.graph if node.op_type == "MatMul"]
    assert sorted(sizes(node.inputs[0])[1] for node in queries[:3]) == [1, TOKENS, TOKENS]


def test_two_tokens_of_a_distilled_model_share():
    body = block("x", "e", 0) + HEAD.format("e") + "\n d = Gather<axis=1>(n, one)\n z = MatMul(d, head)"
    model = build(f"(float[1,{TOKENS},{WIDTH}] x) => (float[1,5] y, float[1,5] z) {{ {body} }}", **weights())
    assert check(model, *SINK)[NAME].matched == 10
    attention = next(node for node in model.graph if node.op_type == "Attention")
    assert sizes(attention.inputs[0])[2] == 2


@pytest.mark.parametrize(
    "reader",
    [
        "z = Neg(n)",  # all of the tokens are handed out
        "z = ReduceMean<keepdims=1>(n, middle)",
        "z = Identity(e)",
    ],
)
def test_where_all_tokens_are_read_nothing_sinks(reader):
    body = block("x", "e", 0) + HEAD.format("e") + "\n" + reader
    model = build(
        f"(float[1,{TOKENS},{WIDTH}] x) => (float[1,5] y, z) {{ {body} }}", middle=i64(1), **weights()
    )
    report = check(model, NAME)[NAME]
    attention = next(node for node in model.graph if node.op_type == "Attention")
    assert sizes(attention.inputs[0])[2] == TOKENS
    assert report.missed == ()
    assert report.matched <= 1


def test_most_of_the_rows_are_not_worth_a_slice():
    body = block("x", "e", 0) + "c = Slice(e, from, to, middle)\n y = ReduceMean<keepdims=0>(c, middle)"
    model = build(
        f"(float[1,{TOKENS},{WIDTH}] x) => (y) {{ {body} }}",
        **{"from": i64(1), "to": i64(99), "middle": i64(1)},
        **weights(),
    )
    assert check(model, NAME)[NAME].matched == 0


def test_a_row_of_a_causal_attention_is_a_near_miss_but_the_last():
    causal = block("x", "e", 0).replace("Attention(", "Attention<is_causal=1>(")
    model = build(
        f"(float[1,{TOKENS},{WIDTH}] x) => (float[1,5] y) {{ {causal + HEAD.format('e')} }}", **weights()
    )
    report = check(model, *SINK)[NAME]
    assert "causal" in reasons(report)
    assert report.matched == 8  # what follows the attention
    numbers = {**weights(), "index": np.array(-1)}
    model = build(
        f"(float[1,{TOKENS},{WIDTH}] x) => (float[1,5] y) {{ {causal + HEAD.format('e')} }}", **numbers
    )
    report = check(model, *SINK)[NAME]
    assert report.missed == ()
    assert report.matched == 10


def test_the_class_token_is_taken_from_what_it_was_joined_to():
    model = build(
        "(float[1,6,8] x, float[1,1,8] c) => (float[1,5] y) { j = Concat<axis=1>(c, x)\n"
        "n = LayerNormalization<axis=-1>(j, g, b)\n m = MatMul(n, up0)\n s = Gelu(m)\n d = MatMul(s, down0)\n"
        "t = Gather<axis=1>(d, index)\n y = MatMul(t, head) }",
        **weights(),
    )
    assert check(model, *SINK)[NAME].matched == 4
    assert "Concat" not in ops(model)


def test_bodies_read_whole_values():
    model = build(
        "(bool f, float[6,8] x) => (float[8] y, float[6,8] z) { a = Relu(x)\n n = Gelu(a)\n"
        "y = Gather(n, index)\n z = If<then_branch = t () => (float[6,8] p) { p = Neg(n) },"
        "else_branch = e () => (float[6,8] q) { q = Abs(n) }>(f) }",
        index=np.array(0),
    )
    assert check(model, *SINK)[NAME].matched == 0


UNARY = ["Relu(a)", "Gelu(a)", "Mul(a, row)", "Add(a, column)", "Add(full, a)", "Softmax<axis=2>(a)"]
MOVES = [
    "Transpose<perm=[0,2,1]>(a)",
    "Reshape(a, flat)",
    "LayerNormalization<axis=2>(a, g, b)",
    "MatMul(a, w)",
]


@settings(max_examples=40, deadline=None)
@given(
    steps=st.lists(st.sampled_from([*UNARY, *MOVES]), min_size=1, max_size=5),
    axis=st.integers(0, 2),
    rows=st.lists(st.integers(-4, 3), min_size=1, max_size=3),
    gather=st.booleans(),
)
def test_any_chain_of_ops_keeps_its_values(steps, axis, rows, gather):
    lines, last = [], "x"
    for position, step in enumerate(steps):
        # Sizes stay 4 along every axis, so that any order of the steps fits.
        lines.append(f"v{position} = {step.replace('(a', f'({last}').replace(', a)', f', {last})')}")
        last = f"v{position}"
    body = "\n".join(lines)
    take = f"y = Gather<axis={axis}>({last}, rows)" if gather else f"y = Slice({last}, start, end, axis)"
    model = build(
        f"(float[4,4,4] x) => (y) {{ {body}\n {take} }}",
        row=weight(4),
        column=weight(4, 1),
        full=weight(4, 4, 4),
        g=weight(4),
        b=weight(4),
        w=weight(4, 4),
        flat=i64(4, 4, 4),
        rows=i64(*rows) if len(rows) > 1 else np.array(rows[0]),
        start=i64(rows[0] % 4),
        end=i64(rows[0] % 4 + 2),
        axis=i64(axis),
        unused=f32(0.0),
    )
    check(model, *SINK)
