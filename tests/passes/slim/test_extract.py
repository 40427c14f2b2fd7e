"""Networks parted where one value carries everything on, and put together again."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))
from pass_graphs import draw, i64, run, weight
from zeroing import cut, graph, units_of

from edgec.passes.slim.extract import between, in_a_row, parted


def blocks(*widths: int, first: str = "x") -> tuple[str, dict[str, np.ndarray]]:
    """Residual MLPs one after the other, with a norm in front of each."""
    lines, weights, stream = [], {}, first
    for index, width in enumerate(widths):
        lines.append(
            f"n{index} = LayerNormalization(s{index}, gain) u{index} = MatMul(n{index}, w{index}) "
            f"g{index} = Gelu(u{index}) d{index} = MatMul(g{index}, v{index}) "
            f"s{index + 1} = Add(s{index}, d{index})"
        )
        weights[f"w{index}"] = weight(12, width, seed=index)
        weights[f"v{index}"] = weight(width, 12, seed=index + 50)
    body = "\n".join(lines).replace("s0", stream)
    return body, {**weights, "gain": np.ones(12, np.float32)}


def residual(*widths: int) -> ir.Model:
    body, weights = blocks(*widths)
    ending = f"t = Relu(s{len(widths)}) y = MatMul(t, head)"
    return graph(
        f"(float[2, 5, 12] x) => (float[2, 5, 7] y) {{ {body} {ending} }}",
        head=weight(12, 7, seed=99),
        **weights,
    )


def test_every_branch_is_a_segment_and_equal_ones_are_known() -> None:
    model = residual(16, 16, 8, 16)
    segments = parted(model.graph)
    assert [segment.exits[0].name for segment in segments] == ["s1", "s2", "s3", "t", "y"]
    assert [node for segment in segments for node in segment.nodes] == list(model.graph)
    digests = [segment.digest() for segment in segments]
    assert digests[0] == digests[1] != digests[2]
    assert all(segment.repeats for segment in segments[:4])
    assert not segments[4].repeats


def test_weights_are_no_part_of_what_a_segment_is_but_scales_and_shapes_are() -> None:
    def scaled(scale: float, shape: tuple[int, ...], seed: int) -> str:
        model = graph(
            """(float[2, 6, 12] x) => (float[2, 6, 12] y) {
                a = MatMul(x, w) r = Reshape(a, shape) m = Mul(r, scale) f = Reshape(m, back) y = Add(x, f)
            }""",
            w=weight(12, 12, seed=seed),
            scale=np.array(scale, np.float32),
            shape=i64(*shape),
            back=i64(2, 6, 12),
        )
        return parted(model.graph)[0].digest()

    assert scaled(2.0, (2, 3, 24), 0) == scaled(2.0, (2, 3, 24), 1)
    assert scaled(2.0, (2, 3, 24), 0) != scaled(3.0, (2, 3, 24), 0)
    assert scaled(2.0, (2, 3, 24), 0) != scaled(2.0, (2, 2, 36), 0)


@pytest.mark.parametrize("count", [1, 3])
def test_segments_in_a_row_compute_what_the_network_does(count: int) -> None:
    model = residual(16, 8, 8)
    segments = parted(model.graph)
    whole = in_a_row(model, segments[:count])
    feeds = draw(model)
    end = segments[count - 1].exits[0]
    probe = model.clone()
    values = {value.name: value for node in probe.graph for value in node.outputs}
    probe.graph.outputs[:] = [values[end.name]]
    expected = run(probe, feeds)[str(end.name)]
    (found,) = run(whole, feeds).values()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_mask_runs_beside_the_stream() -> None:
    body, weights = blocks(16, 16)
    model = graph(
        f"""(float[2, 5, 12] x, bool[2, 5, 1] mask) => (float[2, 5, 12] y) {{
            open = Cast <to = 1> (mask)
            {body.replace("g0 = Gelu(u0)", "h0 = Gelu(u0) g0 = Mul(h0, open)")}
            y = Mul(s2, open)
        }}""",
        **weights,
    )
    first, second = parted(model.graph)
    assert [value.name for value in first.beside] == ["mask"]
    assert [value.name for value in second.beside] == ["open"]
    # As a network of its own it takes both.
    assert [value.name for value in in_a_row(model, [second]).graph.inputs] == ["s1", "open"]


def test_a_network_without_such_points_is_one_segment() -> None:
    model = graph(
        """(float[2, 12] x, float[2, 12] z) => (float[2, 8] y, float[2, 8] v) {
            a = MatMul(x, w) b = MatMul(z, w) c = Relu(a) d = Relu(b) y = Add(c, d) v = Sub(c, d)
        }""",
        w=weight(12, 8),
    )
    (segment,) = parted(model.graph)
    assert len(segment.nodes) == len(model.graph)
    assert [value.name for value in segment.exits] == ["y", "v"]
    assert not segment.repeats
    np.testing.assert_array_equal(
        next(iter(run(in_a_row(model, [segment]), draw(model)).values())), run(model, draw(model))["y"]
    )


def test_a_segment_is_found_again_in_a_cut_network() -> None:
    model = residual(16, 16)
    segments = parted(model.graph)
    units = units_of(model)
    (name,) = [name for name, unit in units.items() if unit.value == "g1"]
    narrow = cut(model, units, {name: [0, 1, 2]})
    same, cut_one = (between(narrow.graph, segment) for segment in segments[:2])
    assert same is not None
    assert same.digest() == segments[0].digest()
    assert cut_one is not None
    (made,) = [value for node in cut_one.nodes for value in node.outputs if value.name == "u1"]
    assert tuple(made.shape) == (2, 5, 3)


def test_nothing_is_found_of_a_branch_that_has_gone() -> None:
    model = residual(16, 16, 16)
    segments = parted(model.graph)
    units = units_of(model)
    (name,) = [unit.name for unit in units.values() if unit.branches and unit.branches[0][0].add == "s2"
               and len(unit.branches) == 1]  # fmt: skip
    short = cut(model, units, {name: []})
    assert between(short.graph, segments[1]) is None
    assert between(short.graph, segments[0]) is not None


def test_a_graph_without_nodes_has_no_segments() -> None:
    value = ir.Value(name="x", shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.FLOAT))
    assert parted(ir.Graph([value], [value], nodes=[], opset_imports={"": 23})) == []
