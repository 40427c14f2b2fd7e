"""Drawn combinations of how attention is written: one `Attention` each, and the same numbers."""

from __future__ import annotations

import dataclasses

import numpy as np
from attention_graphs import LOWEST, Graph, fuse
from hypothesis import given, settings
from hypothesis import strategies as st

SCALES = ("none", "q", "k", "both", "product", "quotient", "heads", "before transpose")
LAYOUTS = ("transpose", "einsum", "born transposed", "three axes", "tokens first", "swapped")
MASKS = (
    "none",
    "constant bias",
    "computed bias",
    "padding",
    "bias twice",
    "bias and computed",
    "where -inf",
    "where -inf, constant",
    "where lowest",
    "where -1e4",
    "where and bias",
    "causal",
    "causal fill",
    "windows",
    "not",
)
PACKINGS = ("inputs", "linear", "split", "slice", "gather")
REPEATS = ("expand", "gather", "concat")


@dataclasses.dataclass(frozen=True)
class Form:
    batch: int = 2
    kv_heads: int = 2
    group: int = 1
    queries: int = 5
    keys: int = 5
    size: int = 4
    width: int = 6
    scale: str = "q"
    layout: str = "transpose"
    mask: str = "none"
    packing: str = "inputs"
    repeat: str = "expand"
    guard: bool = False
    double: bool = False
    values_left: bool = False

    @property
    def heads(self) -> int:
        return self.kv_heads * self.group


def build(form: Form, seed: int = 0) -> tuple[Graph, str]:
    g = Graph(seed)
    b, heads, m, n, d, w = form.batch, form.heads, form.queries, form.keys, form.size, form.width
    q, k, v = _operands(g, form)
    if form.group > 1:
        k, v = (_repeat(g, form, x, size) for x, size in ((k, d), (v, w)))
    if form.scale in ("q", "both"):
        q = g.op("Mul", q, g.const(d**-0.25))
    if form.scale == "before transpose":
        k = g.op("Div", k, g.const(d**0.5))
    k_columns = _columns(g, form, k)
    if form.scale in ("k", "both"):
        k_columns = g.op("Mul", g.const(d**-0.25), k_columns)
    logits = _product(g, form, q, k_columns)
    if form.scale == "product":
        logits = g.op("Mul", logits, g.const([d**-0.5]))
    if form.scale == "quotient":
        logits = g.op("Div", logits, g.const(d**0.5))
    if form.scale == "heads":
        logits = g.op("Mul", logits, g.const(np.abs(g.draw(heads, 1, 1)) + 0.5))
    logits = _mask(g, form, logits)
    if form.layout == "three axes":
        logits = g.reshape(logits, b * heads, m, n)
    if form.double:
        logits = g.op("Cast", logits, to=11)
    p = g.op("Softmax", logits, axis=2 if form.layout == "three axes" else -1)
    if form.double:
        p = g.op("Cast", p, to=1)
    if form.guard:
        p = g.op("Where", g.op("IsNaN", p), g.const(0.0), p)
    return g, _weigh(g, form, p, v)


def _operands(g: Graph, form: Form) -> tuple[str, str, str]:
    b, heads, kv, m, n, d, w = (
        form.batch, form.heads, form.kv_heads, form.queries, form.keys, form.size, form.width,
    )  # fmt: skip
    if form.packing == "inputs":
        return (
            g.input(g.draw(b, heads, m, d)),
            g.input(g.draw(b, kv, n, d)),
            g.input(g.draw(b, kv, n, w)),
        )
    x = g.input(g.draw(b, m, 8))
    if form.packing == "linear":
        context = x if m == n else g.input(g.draw(b, n, 8))
        return (
            g.heads(g.linear(x, 8, heads * d), b, m, heads, d),
            g.heads(g.linear(context, 8, kv * d), b, n, kv, d),
            g.heads(g.linear(context, 8, kv * w), b, n, kv, w),
        )
    hidden = heads * d
    packed = g.linear(x, 8, 3 * hidden)
    if form.packing == "split":
        parts = g.op("Split", packed, outputs=3, axis=-1, num_outputs=3)
        return tuple(g.heads(part, b, m, heads, d) for part in parts)  # type: ignore[return-value]
    five = g.transpose(g.reshape(packed, b, m, 3, heads, d), 2, 0, 3, 1, 4)
    if form.packing == "gather":
        return tuple(g.op("Gather", five, g.const(i, np.int64), axis=0) for i in range(3))  # type: ignore[return-value]
    found = []
    for i in range(3):
        part = g.op("Slice", five, *(g.const([x], np.int64) for x in (i, i + 1, 0)))
        found.append(g.op("Squeeze", part, g.const([0], np.int64)))
    return found[0], found[1], found[2]


def _repeat(g: Graph, form: Form, x: str, size: int) -> str:
    b, kv, n, group = form.batch, form.kv_heads, form.keys, form.group
    if form.repeat == "gather":
        return g.op("Gather", x, g.const(np.repeat(np.arange(kv), group), np.int64), axis=1)
    five = g.op("Unsqueeze", x, g.const([2], np.int64))
    if form.repeat == "expand":
        five = g.op("Expand", five, g.const([b, kv, group, n, size], np.int64))
    else:
        five = g.op("Concat", *[five] * group, axis=2)
    return g.reshape(five, b, kv * group, n, size)


def _columns(g: Graph, form: Form, k: str) -> str:
    b, heads, n, d = form.batch, form.heads, form.keys, form.size
    if form.layout in ("einsum", "swapped"):
        return k
    if form.layout == "three axes":
        return g.transpose(g.reshape(k, b * heads, n, d), 0, 2, 1)
    if form.layout == "tokens first":
        return g.transpose(g.transpose(k, 0, 2, 1, 3), 0, 2, 3, 1)
    if form.layout == "born transposed":
        return g.reshape(g.transpose(g.reshape(k, b * heads, n, d), 0, 2, 1), b, heads, d, n)
    return g.transpose(k, 0, 1, 3, 2)


def _product(g: Graph, form: Form, q: str, k: str) -> str:
    b, heads, m, n, d = form.batch, form.heads, form.queries, form.keys, form.size
    if form.layout == "einsum":
        return g.op("Einsum", q, k, equation="bhid,bhjd->bhij")
    if form.layout == "swapped":
        return g.transpose(g.op("MatMul", k, g.transpose(q, 0, 1, 3, 2)), 0, 1, 3, 2)
    if form.layout == "three axes":
        return g.reshape(g.op("MatMul", g.reshape(q, b * heads, m, d), k), b, heads, m, n)
    return g.op("MatMul", q, k)


def _mask(g: Graph, form: Form, logits: str) -> str:
    b, heads, m, n = form.batch, form.heads, form.queries, form.keys
    # Every other mask has a query without any key, which is where spellings differ.
    keep = g.random.random((b, 1, m, n)) < 0.6
    keep[..., 0] = True
    keep[0, 0, 0] = False
    if not form.mask.startswith("where -inf") or not form.guard:
        keep[0, 0, 0, 0] = form.mask in ("where -inf", "where -inf, constant", "not", "where and bias")
    if form.mask == "constant bias":
        return g.op("Add", logits, g.const(g.draw(1, heads, m, n)))
    if form.mask == "computed bias":
        return g.op("Add", g.input(g.draw(heads, m, n)), logits)
    if form.mask == "padding":
        return g.op("Add", logits, g.input(np.where(keep[:, :, :1], 0, LOWEST).astype(np.float32)))
    if form.mask == "bias twice":
        logits = g.op("Add", logits, g.const(g.draw(heads, m, n)))
        return g.op("Sub", logits, g.const(np.where(keep, 0, 100)))
    if form.mask == "bias and computed":
        logits = g.op("Add", logits, g.const(g.draw(m, n)))
        logits = g.op("Mul", logits, g.const(0.5))
        return g.op("Add", logits, g.input(g.draw(b, 1, 1, n)))
    if form.mask == "where -inf":
        return g.op("Where", g.input(keep), logits, g.const(-np.inf))
    if form.mask == "where -inf, constant":
        return g.op("Where", g.const(~keep[:1], bool), g.const(-np.inf), logits)
    if form.mask == "where lowest":
        return g.op("Where", g.input(keep), logits, g.const(LOWEST))
    if form.mask == "where -1e4":
        return g.op("Where", g.input(~keep), g.const(np.full((1, 1, m, n), -1e4)), logits)
    if form.mask == "where and bias":
        logits = g.op("Add", logits, g.const(g.draw(heads, m, n)))
        return g.op("Where", g.input(keep), logits, g.const(-np.inf))
    if form.mask == "causal":
        return g.op("Add", logits, g.const(np.triu(np.full((m, n), -np.inf), 1)))
    if form.mask == "causal fill":
        return g.op("Where", g.const(np.tril(np.ones((m, n))), bool), logits, g.const(LOWEST))
    if form.mask == "windows":
        logits = g.reshape(logits, 1, b, heads, m, n)
        logits = g.op("Add", logits, g.const(np.where(g.random.random((1, b, 1, m, n)) < 0.5, 0, -100)))
        return g.reshape(logits, b, heads, m, n)
    if form.mask == "not":
        return g.op("Where", g.op("Not", g.input(keep)), g.const(-np.inf), logits)
    return logits


def _weigh(g: Graph, form: Form, p: str, v: str) -> str:
    b, heads, m, n, w = form.batch, form.heads, form.queries, form.keys, form.width
    if form.layout == "three axes":
        out = g.op("MatMul", p, g.reshape(v, b * heads, n, w))
        return g.transpose(g.reshape(out, b, heads, m, w), 0, 2, 1, 3)
    if form.layout == "einsum":
        return g.op("Einsum", p, v, equation="bhij,bhjd->bihd")
    if form.values_left:
        out = g.op("MatMul", g.transpose(v, 0, 1, 3, 2), g.transpose(p, 0, 1, 3, 2))
        return g.reshape(g.transpose(out, 0, 3, 1, 2), b, m, heads * w)
    return g.reshape(g.transpose(g.op("MatMul", p, v), 0, 2, 1, 3), b, m, heads * w)


@st.composite
def forms(draw) -> Form:
    packing = draw(st.sampled_from(PACKINGS))
    packed = packing in ("split", "slice", "gather")
    size = draw(st.integers(2, 5))
    group = 1 if packed else draw(st.sampled_from((1, 1, 2, 3)))
    mask = draw(st.sampled_from(MASKS))
    queries = draw(st.integers(1, 6))
    square = packed or mask.startswith("causal")
    return Form(
        batch=draw(st.integers(1, 3)),
        kv_heads=draw(st.integers(1, 3)),
        group=group,
        queries=queries,
        keys=queries if square else draw(st.integers(2, 6)),
        size=size,
        width=size if packed else draw(st.integers(2, 6)),
        scale=draw(st.sampled_from(SCALES)),
        layout=draw(st.sampled_from(LAYOUTS)),
        mask=mask,
        packing=packing,
        repeat=draw(st.sampled_from(REPEATS)),
        guard=draw(st.booleans()),
        double=draw(st.booleans()),
        values_left=draw(st.booleans()),
    )


def check(form: Form, seed: int = 0):
    graph, out = build(form, seed)
    fused = fuse(graph, out)
    if form.keys == 1:
        return fused  # a softmax over one key is constant, so nothing is promised
    assert fused.result.log.misses == []
    assert len(fused.nodes) == 1
    assert "Softmax" not in fused.ops()
    # Logits of a few units in fp32: reordered sums and the scale's place move the last bits only.
    assert fused.error < 2e-5
    (node,) = fused.nodes
    assert [
        len(value.shape) for value in node.inputs[:3] if value is not None and value.shape is not None
    ] == [4] * 3
    return fused


@settings(max_examples=120, deadline=None)
@given(forms(), st.integers(0, 99))
def test_drawn_form_becomes_one_attention(form, seed):
    check(form, seed)
