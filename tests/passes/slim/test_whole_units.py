"""Residual branches, blocks and depth that leave as a whole, and products that become thinner."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))
from pass_graphs import draw, ops, run, weight
from zeroing import EXACT, change, cut, graph, misses_of, units_of

from edgec.core.dialect import SOURCE_KEY
from edgec.core.errors import JobError


def encoder(*, post_norm: bool = False, blocks: int = 3) -> ir.Model:
    """Blocks of an attention and an MLP, with their norms in front or behind."""
    lines, weights, before = [], {}, "x"
    for place in range(blocks):
        for part in ("attn", "mlp"):
            p = f"{part}{place}_"
            weights |= {f"{p}w": weight(8, 8, seed=place), f"{p}b": weight(8), f"{p}g": weight(8) + 1}
            weights[f"{p}v"] = weight(8, 8, seed=place + 9)
            start = before if post_norm else f"{p}n"
            norm = f"LayerNormalization({{}}, {p}g, {p}b)"
            if not post_norm:
                lines.append(f"{p}n = {norm.format(before)}")
            lines.append(f"{p}u = MatMul({start}, {p}w)")
            if part == "attn":
                lines += [
                    f"{p}a = Attention <q_num_heads = 2, kv_num_heads = 2> ({p}u, {p}u, {p}u)",
                    f"{p}m = MatMul({p}a, {p}v)",
                ]
            else:
                lines += [f"{p}h = Gelu({p}u)", f"{p}m = MatMul({p}h, {p}v)"]
            lines += [f"{p}o = Add({p}m, {p}b)", f"{p}s = Add({p}o, {before})"]
            before = f"{p}s"
            if post_norm:
                lines.append(f"{p}r = {norm.format(before)}")
                before = f"{p}r"
    body = "\n".join(lines)
    model = graph(
        f"(float[2, 5, 8] x) => (float[2, 5, 8] y) {{ {body} \n y = MatMul({before}, last) }}",
        last=weight(8, 8),
        **weights,
    )
    for node in model.graph:
        part, _, rest = node.outputs[0].name.partition("_")
        if rest:
            node.metadata_props[SOURCE_KEY] = f"blocks.{part[-1]}.{part[:-1]}.{rest}"
    return model


@pytest.mark.parametrize("post_norm", [False, True])
def test_branches_blocks_and_depth_are_found_by_what_they_add(post_norm: bool) -> None:
    units = units_of(encoder(post_norm=post_norm))
    names = [unit.name for unit in units.values() if unit.branches]
    assert names == [
        "attention:blocks.0.attn", "mlp_block:blocks.0.mlp",
        "attention:blocks.1.attn", "mlp_block:blocks.1.mlp",
        "attention:blocks.2.attn", "mlp_block:blocks.2.mlp",
        "block:blocks.0", "block:blocks.1", "block:blocks.2",
        "depth:blocks",
    ]  # fmt: skip
    assert units["depth:blocks"].size == 3


@pytest.mark.parametrize("post_norm", [False, True])
@pytest.mark.parametrize(
    "kept",
    [
        {"attention:blocks.1.attn": []},
        {"mlp_block:blocks.2.mlp": []},
        {"block:blocks.0": [], "mlp_block:blocks.1.mlp": []},
        {"depth:blocks": [1]},
        {"depth:blocks": [], "mlp:blocks.0.mlp": [0, 1], "heads:blocks.1.attn": [1]},
    ],
)
def test_a_branch_that_adds_nothing_leaves_without_a_trace(
    post_norm: bool, kept: dict[str, list[int]]
) -> None:
    model = encoder(post_norm=post_norm)
    units = units_of(model)
    assert change(model, units, kept) < EXACT


def test_a_sum_that_is_an_output_keeps_its_name_and_shape() -> None:
    model = graph(
        """(float[2, 5, 8] x) => (float[2, 5, 8] y) {
            a = MatMul(x, w)
            y = Add(a, x)
        }""",
        w=weight(8, 8),
    )
    units = units_of(model)
    [name] = [name for name, unit in units.items() if unit.branches]
    short = cut(model, units, {name: []})
    feeds = draw(short)
    assert ops(short) == {"Identity": 1}
    np.testing.assert_array_equal(run(short, feeds)["y"], feeds["x"])
    assert list(short.graph.outputs[0].shape) == [2, 5, 8]


def test_two_layers_that_are_added_are_no_branch() -> None:
    model = graph(
        """(float[2, 5, 8] x) => (float[2, 5, 8] y) {
            a = MatMul(x, w)
            b = MatMul(x, v)
            y = Add(a, b)
        }""",
        w=weight(8, 8),
        v=weight(8, 8),
    )
    assert not [unit for unit in units_of(model).values() if unit.branches]


LINEAR = {
    "MatMul": ("(float[2, 5, 12] x) => (float[2, 5, 10] y) { y = MatMul(x, w) }", (12, 10)),
    "Gemm": (
        "(float[5, 12] x) => (float[5, 10] y) { y = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (x, w, b) }",
        (10, 12),
    ),
    "Conv": (
        "(float[1, 12, 6, 6] x) => (float[1, 10, 3, 3] y) { y = Conv <strides = [2, 2]> (x, w, b) }",
        (10, 12, 1, 1),
    ),
}


@pytest.mark.parametrize("op", LINEAR)
def test_a_product_of_a_low_rank_becomes_two_exactly(op: str) -> None:
    body, shape = LINEAR[op]
    outputs, inputs = (shape[1], shape[0]) if op == "MatMul" else shape[:2]
    low = weight(outputs, 3, seed=1) @ weight(3, inputs, seed=2)
    low = (low.T if op == "MatMul" else low).reshape(shape)
    model = graph(body, w=low, b=weight(outputs))
    units = units_of(model)
    [unit] = units.values()
    assert (unit.kind, unit.size) == ("rank", 10)
    feeds = draw(model)
    before = run(model, feeds)["y"]
    for rank in (3, 7):
        thin = cut(model, units, {unit.name: list(range(rank))})
        assert ops(thin) == {op: 2}
        assert {rank} <= {size for node in thin.graph for size in node.inputs[1].shape}
        np.testing.assert_allclose(run(thin, feeds)["y"], before, atol=1e-5 * before.std())


def test_a_full_rank_leaves_a_product_as_it_is() -> None:
    model = graph(LINEAR["MatMul"][0], w=weight(12, 10))
    units = units_of(model)
    assert ops(cut(model, units, {name: list(range(10)) for name in units})) == {"MatMul": 1}


def test_units_of_another_graph_are_refused() -> None:
    units = units_of(encoder())
    other = graph(LINEAR["MatMul"][0], w=weight(12, 10))
    for kept in ({"mlp:blocks.0.mlp": [0]}, {"block:blocks.1": []}, {"rank:blocks.0.attn.u": [0]}):
        with pytest.raises(JobError, match="is not of this graph"):
            cut(other, units, kept)
    with pytest.raises(JobError, match="there is no unit mlp:other"):
        cut(other, units, {"mlp:other": [0]})


def test_an_attention_of_an_unknown_size_says_so() -> None:
    model = graph(
        """(float[2, 2, 5, N] x) => (float[2, 2, 5, N] y) { y = Attention(x, x, x) }""",
    )
    assert set(misses_of(model).values()) <= {
        "the size of what it makes is not known",
        "heads: `x` is an input of the graph",
        "heads: `y` is an output of the graph",
    }
