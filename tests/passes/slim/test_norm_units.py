"""Widths that a normalisation takes its statistics over, rotated pairs, and weights in fewer bits."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))
from pass_graphs import draw, f32, i64, run, weight
from zeroing import EXACT, change, cut, graph, last, units_of, zeroed


def stream(norm: str) -> ir.Model:
    """A stream of 8 that an MLP of 12 is added to, with a norm in front of the MLP and of the last layer."""
    return graph(
        """(float[2, 5, 6] x) => (float[2, 5, 3] y) {
            s = MatMul(x, w0)
            n = NORM(s, g1)
            u = MatMul(n, up)
            a = Gelu(u)
            d = MatMul(a, down)
            t = Add(s, d)
            m = NORM(t, g2)
            y = MatMul(m, last)
        }""".replace("NORM", f"{norm} <axis = -1, epsilon = 0.01>"),
        w0=weight(6, 8),
        g1=weight(8, seed=1) + 1,
        up=weight(8, 12, seed=2),
        down=weight(12, 8, seed=3),
        g2=weight(8, seed=4) + 1,
        last=weight(8, 3, seed=5),
    )


def residual(model: ir.Model) -> str:
    [name] = [name for name, unit in units_of(model).items() if unit.kind == "residual"]
    return name


@pytest.mark.parametrize("count", [1, 3, 7])
def test_the_width_of_a_stream_under_rms_norms_is_cut_exactly(count: int) -> None:
    model = stream("RMSNormalization")
    units = units_of(model)
    unit = units[residual(model)]
    assert unit.normalized
    assert change(model, units, last(unit, count)) < EXACT


def test_under_layer_norms_the_width_is_cut_exactly_where_what_stays_has_no_mean() -> None:
    model = stream("LayerNormalization")
    units = units_of(model)
    kept = last(units[residual(model)], 5)
    assert change(model, units, kept) > 100 * EXACT, "the mean of what stays is not that of all"
    for name in ("w0", "down"):
        value = model.graph.initializers[name]
        array = value.const_value.numpy().copy()
        array[:, 3:] -= array[:, 3:].mean(axis=1, keepdims=True)
        value.const_value = ir.tensor(array, name=name)
    assert change(model, units, kept) < EXACT


def test_normalised_heads_are_cut_with_the_scale_of_their_norm() -> None:
    model = graph(
        """(float[2, 5, 8] x) => (float[2, 5, 8] y) {
            q = MatMul(x, wq)
            k = MatMul(x, wk)
            q4 = Reshape(q, heads)
            k4 = Reshape(k, heads)
            qn = RMSNormalization(q4, g)
            kn = RMSNormalization(k4, g)
            qt = Transpose <perm = [0, 2, 1, 3]> (qn)
            kt = Transpose <perm = [0, 2, 1, 3]> (kn)
            a = Attention(qt, kt, kt)
            at = Transpose <perm = [0, 2, 1, 3]> (a)
            m = Reshape(at, flat)
            y = MatMul(m, out)
        }""",
        wq=weight(8, 12),
        wk=weight(8, 12, seed=1),
        heads=i64(2, 5, 3, 4),
        g=weight(4) + 1,
        flat=i64(2, 5, -1),
        out=weight(12, 8, seed=2),
    )
    units = {name: unit for name, unit in units_of(model).items() if unit.activations}
    assert {unit.kind: (unit.size, unit.normalized) for unit in units.values()} == {
        "heads": (3, False), "qk_width": (4, True),
    }  # fmt: skip
    for unit in units.values():
        assert change(model, units, last(unit, 2)) < EXACT


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("turned", [0, 4])
def test_pairs_that_are_turned_together_leave_together_with_their_angles(
    interleaved: int, turned: int
) -> None:
    half = (turned or 6) // 2
    model = graph(
        f"""(float[2, 5, 8] x) => (float[2, 5, 8] y) {{
            q = MatMul(x, wq)
            k = MatMul(x, wk)
            v = MatMul(x, wv)
            q4 = Reshape(q, heads)
            k4 = Reshape(k, heads)
            v4 = Reshape(v, heads)
            qt = Transpose <perm = [0, 2, 1, 3]> (q4)
            kt = Transpose <perm = [0, 2, 1, 3]> (k4)
            vt = Transpose <perm = [0, 2, 1, 3]> (v4)
            qr = RotaryEmbedding <interleaved = {interleaved}, rotary_embedding_dim = {turned}>
                (qt, cosine, sine, places)
            kr = RotaryEmbedding <interleaved = {interleaved}, rotary_embedding_dim = {turned}>
                (kt, cosine, sine, places)
            a = Attention(qr, kr, vt)
            at = Transpose <perm = [0, 2, 1, 3]> (a)
            m = Reshape(at, flat)
            y = MatMul(m, out)
        }}""",
        wq=weight(8, 12),
        wk=weight(8, 12, seed=1),
        wv=weight(8, 12, seed=2),
        heads=i64(2, 5, 2, 6),
        cosine=np.cos(weight(5, half, seed=3)),
        sine=np.sin(weight(5, half, seed=3)),
        places=np.tile(np.arange(5), (2, 1)),
        flat=i64(2, 5, -1),
        out=weight(12, 8, seed=4),
    )
    units = {name: unit for name, unit in units_of(model).items() if unit.activations}
    [unit] = [unit for unit in units.values() if unit.kind == "qk_width"]
    assert unit.size == half + (6 - turned if turned else 0)
    # The angles of a pair that leaves are no zeros that a rotation could do without.
    constants = tuple(each for each in unit.slices if each.value in ("wq", "wk"))
    kept = last(unit, unit.size - 1)
    zeros = model.clone()
    for extent in constants:
        value = zeros.graph.initializers[extent.value]
        array = value.const_value.numpy().copy()
        array[:, ~extent.kept(kept[unit.name])] = 0
        value.const_value = ir.tensor(array, name=value.name)
    narrow = cut(zeros, units, kept)
    assert narrow.graph.initializers["cosine"].shape[1] == half - 1
    feeds = draw(model)
    before, after = (run(each, feeds)["y"] for each in (zeros, narrow))
    assert np.abs(before - after).max() < EXACT * before.std()


def test_weights_in_fewer_bits_are_cut_with_their_scales() -> None:
    model = graph(
        """(float[2, 5, 8] x) => (float[2, 5, 8] y) {
            wu = DequantizeLinear <axis = 1> (up, up_scale)
            u = MatMul(x, wu)
            a = Relu(u)
            wd = DequantizeLinear(down, down_scale)
            y = MatMul(a, wd)
        }""",
        up=(weight(8, 12) * 100).astype(np.int8),
        up_scale=np.abs(weight(12, seed=1)),
        down=(weight(12, 8, seed=2) * 100).astype(np.int8),
        down_scale=f32(0.01),
    )
    units = units_of(model)
    [unit] = [unit for unit in units.values() if unit.activations]
    assert (unit.kind, unit.size) == ("mlp", 12)
    assert change(model, units, last(unit, 5)) < EXACT
    assert zeroed(model, units, last(unit, 5)).graph.initializers["up"].dtype == ir.DataType.INT8


def test_a_slice_that_becomes_uneven_is_gathered() -> None:
    model = graph(
        """(float[2, 5, 8] x) => (float[2, 5, 4] y) {
            a = MatMul(x, w)
            e = Slice(a, zero, far, two, two)
            o = Slice(a, one, far, two, two)
            ee = MatMul(e, even)
            oo = MatMul(o, odd)
            y = Add(ee, oo)
        }""",
        w=weight(8, 12),
        zero=i64(0),
        one=i64(1),
        two=i64(2),
        far=i64(99),
        even=weight(6, 4, seed=1),
        odd=weight(6, 4, seed=2),
    )
    units = units_of(model)
    [name] = [name for name, unit in units.items() if unit.activations]
    for kept in ([0, 1, 4, 5, 11], [0, 3, 4, 6, 8, 9], [1, 3, 5]):
        assert change(model, units, {name: kept}) < EXACT
