"""Channels by dependency group: what leaves together, what cannot and why, and that the cut is exact."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))
from pass_graphs import f32, i64, weight
from zeroing import EXACT, change, cut, graph, last, misses_of, units_of


def only(model: ir.Model, kind: str) -> str:
    [name] = [unit.name for unit in units_of(model).values() if unit.kind == kind]
    return name


def exact(model: ir.Model) -> None:
    """Every width alone at every size, and all of them together."""
    units = {name: unit for name, unit in units_of(model).items() if unit.activations}
    assert units
    for unit in units.values():
        for count in range(1, unit.size):
            assert change(model, units, last(unit, count)) < EXACT, unit.name
    together = {name: kept for unit in units.values() for name, kept in last(unit, unit.size // 2).items()}
    assert change(model, units, together) < EXACT


def conv(out: int, channels: int, size: int = 1, seed: int = 0) -> np.ndarray:
    return weight(out, channels, size, size, seed=seed)


RESIDUAL = """(float[1, 3, 6, 6] x) => (float[1, 4, 6, 6] y) {
    a = Conv(x, w1)
    ar = Relu(a)
    b = Conv <pads = [1, 1, 1, 1]> (ar, w2, b2)
    s = Add(ar, b)
    y = Conv(s, w3)
}"""


def residual() -> ir.Model:
    return graph(RESIDUAL, w1=conv(8, 3), w2=conv(8, 8, 3, 1), b2=weight(8), w3=conv(4, 8, 1, 2))


def inverted() -> ir.Model:
    """A MobileNet block: a depthwise convolution between, gated by squeeze and excitation."""
    return graph(
        """(float[1, 3, 6, 6] x) => (float[1, 4, 6, 6] y) {
            a = Conv(x, w1, b1)
            h = HardSwish(a)
            d = Conv <group = 8, pads = [1, 1, 1, 1]> (h, w2, b2)
            m = GlobalAveragePool(d)
            s = Conv(m, w3)
            sr = Relu(s)
            e = Conv(sr, w4, b4)
            g = Sigmoid(e)
            z = Mul(d, g)
            y = Conv(z, w5)
        }""",
        w1=conv(8, 3),
        b1=weight(8),
        w2=weight(8, 1, 3, 3, seed=1),
        b2=weight(8, seed=2),
        w3=conv(4, 8, seed=3),
        w4=conv(8, 4, seed=4),
        b4=weight(8, seed=5),
        w5=conv(4, 8, seed=6),
    )


def grouped() -> ir.Model:
    """A convolution of 4 groups that makes more channels than it takes."""
    return graph(
        """(float[1, 3, 6, 6] x) => (float[1, 4, 6, 6] y) {
            a = Conv(x, w1)
            r = Relu(a)
            b = Conv <group = 4> (r, w2, b2)
            y = Conv(b, w3)
        }""",
        w1=conv(8, 3),
        w2=conv(12, 2, seed=1),
        b2=weight(12),
        w3=conv(4, 12, seed=2),
    )


def concatenated() -> ir.Model:
    """Two branches side by side, then split elsewhere than they were joined."""
    return graph(
        """(float[1, 3, 6, 6] x) => (float[1, 4, 6, 6] y) {
            a = Conv(x, w1)
            b = Conv(x, w2)
            ab = Concat <axis = 1> (a, b)
            n = BatchNormalization(ab, scale, shift, mean, variance)
            p, q = Split <axis = 1> (n, parts)
            u = Conv(p, w3)
            v = Conv(q, w4)
            s = Slice(n, from, to, axes)
            w = Conv(s, w5)
            uv = Add(u, v)
            y = Add(uv, w)
        }""",
        w1=conv(6, 3),
        w2=conv(10, 3, seed=1),
        scale=np.abs(weight(16)),
        shift=weight(16, seed=2),
        mean=weight(16, seed=3),
        variance=np.abs(weight(16, seed=4)) + 1,
        parts=i64(4, 12),
        w3=conv(4, 4, seed=5),
        w4=conv(4, 12, seed=6),
        w5=conv(4, 8, seed=7),
        **{"from": i64(5)},
        to=i64(13),
        axes=i64(1),
    )


def gated() -> ir.Model:
    """A gate of two producers (GLU) from one projection."""
    return graph(
        """(float[2, 5, 6] x) => (float[2, 5, 6] y) {
            p = MatMul(x, w)
            a, b = Split <axis = 2, num_outputs = 2> (p)
            g = Sigmoid(a)
            h = Mul(g, b)
            y = MatMul(h, out)
        }""",
        w=weight(6, 20),
        out=weight(10, 6, seed=1),
    )


def group_normalized() -> ir.Model:
    return graph(
        """(float[1, 3, 6, 6] x) => (float[1, 4, 6, 6] y) <float[1, 8, 6, 6] n> {
            a = Conv(x, w1)
            n = GroupNormalization <num_groups = 4, epsilon = 0.00001> (a, scale, shift)
            y = Conv(n, w2)
        }""",
        w1=conv(8, 3),
        scale=weight(8),
        shift=weight(8, seed=1),
        w2=conv(4, 8, seed=2),
    )


def shuffled() -> ir.Model:
    """Pixel shuffle as exporters write it, and as the op."""
    return graph(
        """(float[1, 3, 4, 4] x) => (float[1, 4, 8, 8] y) {
            a = Conv(x, w1)
            r = Reshape(a, parted)
            t = Transpose <perm = [0, 1, 4, 2, 5, 3]> (r)
            s = Reshape(t, planes)
            b = Conv(x, w2)
            d = DepthToSpace <blocksize = 2, mode = "CRD"> (b)
            m = Mul(s, d)
            y = Conv(m, w3)
        }""",
        w1=conv(12, 3),
        w2=conv(12, 3, seed=1),
        parted=i64(1, 3, 2, 2, 4, 4),
        planes=i64(1, 3, 8, 8),
        w3=conv(4, 3, seed=2),
    )


def padded() -> ir.Model:
    """A shortcut whose missing channels are zeros, as small ResNets have it."""
    return graph(
        """(float[1, 3, 6, 6] x) => (float[1, 4, 6, 6] y) {
            a = Conv(x, w1)
            p = Pad(a, pads, zero)
            b = Conv(a, w2)
            s = Add(p, b)
            y = Conv(s, w3)
        }""",
        w1=conv(4, 3),
        pads=i64(0, 2, 0, 0, 0, 2, 0, 0),
        zero=f32(0.0),
        w2=conv(8, 4, seed=1),
        w3=conv(4, 8, seed=2),
    )


def transposed() -> ir.Model:
    return graph(
        """(float[1, 3, 4, 4] x) => (float[1, 4, 8, 8] y) {
            a = Conv(x, w1)
            u = ConvTranspose <strides = [2, 2]> (a, w2, b2)
            r = Resize <mode = "nearest"> (u, , , sizes)
            y = Conv(r, w3)
        }""",
        w1=conv(6, 3),
        w2=conv(6, 8, 2, 1),
        b2=weight(8),
        sizes=i64(1, 8, 8, 8),
        w3=conv(4, 8, seed=2),
    )


@pytest.mark.parametrize(
    "model",
    [
        residual(), inverted(), grouped(), concatenated(), gated(), group_normalized(), shuffled(), padded(),
        transposed(),
    ],
    ids=[
        "residual", "inverted", "grouped", "concatenated", "gated", "group norm", "shuffled", "padded",
        "transposed",
    ],
)  # fmt: skip
def test_channels_that_are_zero_leave_without_a_trace(model: ir.Model) -> None:
    exact(model)


def test_a_residual_sum_ties_what_it_adds() -> None:
    model = residual()
    unit = units_of(model)[only(model, "channels")]
    assert unit.size == 8
    assert {(each.value, each.axis) for each in unit.slices} == {
        ("w1", 0), ("w2", 0), ("w2", 1), ("b2", 0), ("w3", 1),
    }  # fmt: skip
    assert unit.consumers == ("n2_Conv", "n4_Conv")


def test_groups_leave_as_a_whole() -> None:
    model = grouped()
    units = units_of(model)
    unit = units[only(model, "channels")]
    assert unit.size == 4
    [node] = [node for node in cut(model, units, last(unit, 3)).graph if "group" in node.attributes]
    assert node.attributes["group"].value == 3
    assert node.inputs[1].shape == [9, 2, 1, 1]


def test_a_group_norm_keeps_whole_groups() -> None:
    model = group_normalized()
    units = units_of(model)
    unit = units[only(model, "channels")]
    assert unit.size == 4
    narrow = cut(model, units, last(unit, 1))
    assert [node.attributes["num_groups"].value for node in narrow.graph if len(node.inputs) == 3] == [1]


def test_one_member_more_stays_where_a_value_would_be_left_with_none() -> None:
    model = concatenated()
    units = units_of(model)
    kept = {name: [unit.size - 1] for name, unit in units.items() if unit.activations}
    assert change(model, units, kept) < EXACT


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("h = Identity(a)  y = Relu(h)", "`y` is an output of the graph"),
        ("h = Softmax <axis = 1> (a)  y = Conv(h, w2)", "Softmax runs over the members"),
        ("h = ReduceMean <keepdims = 1> (a, axes)  y = Mul(h, x)", "ReduceMean runs over the members"),
        ("h = CumSum(a, axis)  y = Conv(h, w2)", "CumSum is not known to keep its entries apart"),
        ("h = Reshape(a, flat)  y = Mul(h, factor)", "`y` is an output of the graph"),
    ],
)
def test_what_cannot_be_cut_says_why(body: str, reason: str) -> None:
    model = graph(
        f"(float[1, 3, 4, 4] x) => (float[N, M, H, W] y) {{ a = Conv(x, w1) {body} }}",
        w1=conv(6, 3),
        w2=conv(3, 6),
        axes=i64(1),
        axis=i64(1),
        flat=i64(1, 3, 2, 16),
        factor=f32(2.0),
    )  # fmt: skip
    assert any(reason in said for said in misses_of(model).values()), misses_of(model)
    assert not [unit for unit in units_of(model).values() if unit.activations]


def test_a_weight_that_two_layers_share_is_cut_for_both() -> None:
    model = graph(
        """(float[2, 5, 8] x) => (float[2, 5, 8] y) {
            a = MatMul(x, up)
            b = Gelu(a)
            c = MatMul(b, down)
            d = MatMul(c, up)
            e = Gelu(d)
            y = MatMul(e, down)
        }""",
        up=weight(8, 10),
        down=weight(10, 8, seed=1),
    )
    units = units_of(model)
    unit = units[only(model, "mlp")]
    assert unit.consumers == ("n2_MatMul", "n5_MatMul")
    assert change(model, units, last(unit, 4)) < EXACT
    assert any("is shared" in said for said in misses_of(model).values())


def test_a_weight_that_is_an_output_stays() -> None:
    model = graph(
        """(float[2, 5, 6] x) => (float[2, 5, 6] y, float[6, 10] shown) {
            a = MatMul(x, up)
            b = Gelu(a)
            y = MatMul(b, down)
            shown = Neg(up)
        }""",
        up=weight(6, 10),
        down=weight(10, 6, seed=1),
    )
    assert "width: `shown` is an output of the graph (`layer.n3_Neg`)" in misses_of(model).values()
    assert not [unit for unit in units_of(model).values() if unit.activations]


def test_what_a_body_of_a_branch_reads_stays() -> None:
    model = graph(
        """(float[2, 5, 6] x, bool c) => (float[2, 5, 6] y) {
            a = MatMul(x, up)
            b = Gelu(a)
            d = MatMul(b, down)
            y = If (c) <
                then_branch = t () => (float[2, 5, 6] p) { m = MatMul(b, down) p = Add(m, d) },
                else_branch = e () => (float[2, 5, 6] q) { q = Identity(d) }
            >
        }""",
        up=weight(6, 10),
        down=weight(10, 6, seed=1),
    )
    said = misses_of(model)
    assert any("a body of a control flow reads" in reason for reason in said.values()), said
    assert "it is in the body of a control flow" in said.values()
    assert not [unit for unit in units_of(model).values() if unit.activations]
