"""Heads, widths of heads and widths of MLPs: found, cut, and nothing changed where they were zero."""

from __future__ import annotations

import sys
from pathlib import Path

import onnx_ir as ir
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))
from pass_graphs import i64, weight
from zeroing import EXACT, change, cut, graph, last, misses_of, units_of


def attention(heads: int, key_heads: int, width: int = 4, value_width: int = 4) -> ir.Model:
    """Queries, keys and values of projections of their own, and what the attention makes projected."""
    q, k, v = heads * width, key_heads * width, key_heads * value_width
    return graph(
        """(float[2, 5, 12] x) => (float[2, 5, 12] y) {
            qp = MatMul(x, wq)
            qb = Add(qp, bq)
            kp = MatMul(x, wk)
            vp = MatMul(x, wv)
            q4 = Reshape(qb, q_shape)
            k4 = Reshape(kp, k_shape)
            v4 = Reshape(vp, v_shape)
            qt = Transpose <perm = [0, 2, 1, 3]> (q4)
            kt = Transpose <perm = [0, 2, 1, 3]> (k4)
            vt = Transpose <perm = [0, 2, 1, 3]> (v4)
            a = Attention(qt, kt, vt)
            at = Transpose <perm = [0, 2, 1, 3]> (a)
            m = Reshape(at, flat)
            o = MatMul(m, wo)
            y = Add(x, o)
        }""",
        wq=weight(12, q),
        bq=weight(q, seed=1),
        wk=weight(12, k, seed=2),
        wv=weight(12, v, seed=3),
        wo=weight(heads * value_width, 12, seed=4),
        q_shape=i64(2, 5, heads, width),
        k_shape=i64(2, 5, key_heads, width),
        v_shape=i64(2, 5, key_heads, value_width),
        flat=i64(2, 5, heads * value_width),
    )


def fused() -> ir.Model:
    """One projection for queries, keys and values of 3 heads, 4 wide, and an MLP of 10 behind."""
    return graph(
        """(float[2, 5, 12] x) => (float[2, 5, 12] y) {
            p = MatMul(x, w)
            b = Add(p, bias)
            q, k, v = Split <axis = -1, num_outputs = 3> (b)
            q4 = Reshape(q, heads)
            k4 = Reshape(k, heads)
            v4 = Reshape(v, heads)
            qt = Transpose <perm = [0, 2, 1, 3]> (q4)
            kt = Transpose <perm = [0, 2, 1, 3]> (k4)
            vt = Transpose <perm = [0, 2, 1, 3]> (v4)
            a = Attention <scale = 0.3> (qt, kt, vt)
            at = Transpose <perm = [0, 2, 1, 3]> (a)
            m = Reshape(at, flat)
            o = MatMul(m, out)
            r = Add(x, o)
            u = MatMul(r, up)
            ub = Add(u, up_bias)
            g = Gelu(ub)
            y = MatMul(g, down)
        }""",
        w=weight(12, 36),
        bias=weight(36, seed=1),
        heads=i64(2, 5, 3, 4),
        flat=i64(0, 0, 12),
        out=weight(12, 12, seed=2),
        up=weight(12, 10, seed=3),
        up_bias=weight(10, seed=4),
        down=weight(10, 12, seed=5),
    )


def side_by_side(heads: int, key_heads: int) -> ir.Model:
    """An attention of rank 3, whose heads lie side by side."""
    return graph(
        f"""(float[2, 5, 12] x) => (float[2, 5, 12] y) {{
            q = MatMul(x, wq)
            k = MatMul(x, wk)
            v = MatMul(x, wv)
            a = Attention <q_num_heads = {heads}, kv_num_heads = {key_heads}> (q, k, v)
            y = MatMul(a, wo)
        }}""",
        wq=weight(12, heads * 4),
        wk=weight(12, key_heads * 4, seed=2),
        wv=weight(12, key_heads * 6, seed=3),
        wo=weight(heads * 6, 12, seed=4),
    )


def open_sizes() -> ir.Model:
    """An attention whose shapes are put together from sizes that are read."""
    return graph(
        """(float[N, M, 12] x) => (float[N, M, 12] y)
        <float[N, M, 3, 4] q4, float[N, 3, M, 4] qt, float[N, 3, M, 4] a, float[N, M, 12] m> {
            n = Shape <start = 0, end = 1> (x)
            l = Shape <start = 1, end = 2> (x)
            heads = Concat <axis = 0> (n, l, three, four)
            flat = Concat <axis = 0> (n, l, twelve)
            q = MatMul(x, w)
            q4 = Reshape(q, heads)
            qt = Transpose <perm = [0, 2, 1, 3]> (q4)
            a = Attention <scale = 0.5> (qt, qt, qt)
            at = Transpose <perm = [0, 2, 1, 3]> (a)
            m = Reshape(at, flat)
            y = MatMul(m, out)
        }""",
        w=weight(12, 12),
        three=i64(3),
        four=i64(4),
        twelve=i64(12),
        out=weight(12, 12, seed=1),
    )


def sizes_of(model: ir.Model) -> dict[str, int]:
    return {unit.kind: unit.size for unit in units_of(model).values() if unit.activations}


@pytest.mark.parametrize(
    ("model", "sizes"),
    [
        (fused(), {"heads": 3, "qk_width": 4, "v_width": 4, "mlp": 10}),
        (attention(4, 4, 4, 6), {"heads": 4, "qk_width": 4, "v_width": 6}),
        (attention(6, 3, 4, 2), {"heads": 3, "qk_width": 4, "v_width": 2}),
        (attention(4, 1, 4, 2), {"heads": 4, "qk_width": 4, "v_width": 2}),
        (open_sizes(), {"heads": 3, "qk_width": 4}),
        (side_by_side(4, 2), {"heads": 2, "qk_width": 4, "v_width": 6}),
        (side_by_side(4, 1), {"heads": 4, "qk_width": 4, "v_width": 6}),
    ],
    ids=["fused", "separate", "grouped", "multi-query", "open", "side by side", "multi-query side by side"],
)
def test_units_of_an_attention_are_cut_exactly_alone_and_together(
    model: ir.Model, sizes: dict[str, int]
) -> None:
    units = {name: unit for name, unit in units_of(model).items() if unit.activations}
    assert sizes_of(model) == sizes
    for unit in units.values():
        for count in range(1, unit.size):
            assert change(model, units, last(unit, count)) < EXACT, unit.name
    together = {name: kept for unit in units.values() for name, kept in last(unit, unit.size // 2).items()}
    assert change(model, units, together) < EXACT


def test_a_narrower_attention_keeps_its_scale_and_its_shapes() -> None:
    model = attention(4, 4)
    units = units_of(model)
    [unit] = [unit for unit in units.values() if unit.kind == "qk_width"]
    narrow = cut(model, units, last(unit, 1))
    [node] = [node for node in narrow.graph if node.op_type == "Attention"]
    assert node.attributes["scale"].value == pytest.approx(0.5)
    assert list(node.inputs[0].shape) == [2, 4, 5, 1]
    assert list(node.outputs[0].shape) == [2, 4, 5, 4]


def test_what_reaches_an_input_or_an_output_stays_and_says_why() -> None:
    assert misses_of(fused()) == {
        "layer.n12_MatMul": "width: `x` is an input of the graph",
        "layer.n17_MatMul": "width: `y` is an output of the graph",
    }
