"""Token reduction on neutral graphs: what is computed, what is protected, what is left alone and why."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from encoders import CHANNELS, Encoder, run

from edgec.core.errors import RequestError
from edgec.passes.infra import MatchLog
from edgec.passes.tokens.merge import MergeTokens
from edgec.passes.tokens.prune import PruneTokens
from edgec.passes.tokens.schedule import Schedule
from edgec.passes.tokens.sites import find_sites

VARIANTS = [
    {},
    {"learned": 2},
    {"learned": 0, "head": "mean"},
    {"post_norm": True},
    {"layer_scale": True, "learned": 5},
    {"head": "mean"},
    {"post_norm": True, "learned": 0, "head": "mean", "positions": False},
]


def lengths(model: ir.Model) -> list[int]:
    """Keys of each attention, in order."""
    return [node.inputs[1].shape[2] for node in model.graph if node.op_type == "Attention"]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("rates", [{0: 3, 1: 2}, {1: 6}, {0: 1, 1: 1, 2: 1}], ids=str)
def test_merging_computes_tome(variant: dict, rates: dict[int, int]) -> None:
    encoder = Encoder(**variant)
    model, feeds = encoder.model(), encoder.feeds()
    MergeTokens(Schedule(rates))(model)
    expected = encoder.with_tome(feeds["patches"], rates)
    np.testing.assert_allclose(run(model, feeds), expected, atol=2e-5)


def test_no_reduction_changes_nothing() -> None:
    encoder = Encoder()
    model, feeds = encoder.model(), encoder.feeds()
    before = run(model, feeds)
    np.testing.assert_allclose(encoder.with_tome(feeds["patches"], {}), before, atol=1e-5)
    nodes = model.graph.num_nodes()
    result = MergeTokens(Schedule({}))(model)
    assert not result.modified
    assert model.graph.num_nodes() == nodes


@pytest.mark.parametrize("matching", ["bipartite", "energy"])
def test_equal_tokens_merge_without_loss(matching: str) -> None:
    """Tokens that come in equal groups stay equal, and one weighed by the group's size stands for it."""
    encoder = Encoder(patches=16, positions=False, blocks=4, head="dense")
    model, feeds = encoder.model(), encoder.feeds()
    half = feeds["patches"][:, :8]
    feeds["patches"] = np.repeat(half, 2, axis=1)
    before = run(model, feeds)
    MergeTokens(Schedule({0: 4}), matching=matching)(model)
    assert lengths(model) == [17, 13, 13, 13]
    np.testing.assert_allclose(run(model, feeds), before, atol=2e-5)


def test_dense_output_has_all_tokens_again() -> None:
    encoder = Encoder(head="dense")
    model, feeds = encoder.model(), encoder.feeds()
    name, shape = model.graph.outputs[0].name, list(model.graph.outputs[0].shape)
    MergeTokens(Schedule({0: 4, 1: 3}))(model)
    assert [node.op_type for node in model.graph].count("TokenRestore") == 1
    output = model.graph.outputs[0]
    assert (output.name, list(output.shape)) == (name, shape)
    result = run(model, feeds)
    assert result.shape == (1, 18, CHANNELS)
    assert len(np.unique(result[0].round(5), axis=0)) == 18 - 7


def test_tokens_can_be_restored_for_the_last_blocks() -> None:
    """The blocks behind the restoring see full lengths, and compute as if the groups' values were theirs."""
    encoder = Encoder(blocks=4, head="dense")
    model, feeds = encoder.model(), encoder.feeds()
    MergeTokens(Schedule.parse("0:5+2:all", find_sites(model)))(model)
    assert lengths(model) == [18, 13, 13, 18]
    assert [node.op_type for node in model.graph].count("TokenRestore") == 1
    assert len(np.unique(run(model, feeds)[0].round(5), axis=0)) == 13


def test_every_shape_is_what_runs() -> None:
    encoder = Encoder(layer_scale=True, head="mean")
    for make in (MergeTokens, PruneTokens):
        model = encoder.model()
        make(Schedule({0: 3, 2: 2}))(model)
        assert lengths(model) == [18, 15, 15]
        shapes = {
            value.name: list(value.shape) for node in model.graph for value in node.outputs if value.shape
        }
        copy = model.clone()
        for name in ("sum_a1", "sum_b1", "hid2", "mlp2"):
            value = next(v for node in copy.graph for v in node.outputs if v.name == name)
            copy.graph.outputs[:] = [value]
            assert list(run(copy, encoder.feeds()).shape) == shapes[name]


def test_padding_leaves_first_and_weighs_nothing() -> None:
    encoder = Encoder(masked=True, learned=0, patches=16, blocks=2, head="class")
    feeds = encoder.feeds(padding=6)
    short = Encoder(masked=True, learned=0, patches=10, blocks=2, head="class")
    short.weights = {**encoder.weights, "positions": encoder.weights["positions"][:, :10]}
    unpadded = run(short.model(), {"patches": feeds["patches"][:, :10], "mask": feeds["mask"][:, :10]})
    for make in (MergeTokens, PruneTokens):
        model = encoder.model()
        make(Schedule({0: 3}))(model)
        np.testing.assert_allclose(run(model, feeds), unpadded, atol=1e-4)
        changed = {**feeds, "patches": feeds["patches"].copy()}
        changed["patches"][:, 10:] += 3.0
        np.testing.assert_allclose(run(model, changed), unpadded, atol=1e-4)


@pytest.mark.parametrize("learned", [0, 1, 2, 5])
def test_learned_tokens_are_protected(learned: int) -> None:
    head = "class" if learned == 1 else "mean"
    sites = find_sites(Encoder(learned=learned, head=head).model())
    assert [site.protected for site in sites] == [learned] * 3


def test_a_token_that_is_picked_later_is_protected() -> None:
    assert [site.protected for site in find_sites(Encoder(learned=0).model())] == [1, 1, 1]


def test_pruning_keeps_the_most_attended() -> None:
    encoder = Encoder(blocks=2)
    model, feeds = encoder.model(), encoder.feeds()
    PruneTokens(Schedule({0: 10}), merge=False)(model)
    prune = next(node for node in model.graph if node.op_type == "TokenPrune")
    copy = model.clone()
    values = {v.name: v for node in copy.graph for v in node.outputs}
    copy.graph.outputs[:] = [values[prune.inputs[1].name], values[prune.outputs[2].name]]
    from encoders import load_passes
    from onnxruntime import InferenceSession

    from edgec.passes.manager import Pipeline

    load_passes()
    Pipeline.named(["decompose.plugins", "decompose.attention"]).run(copy)
    score, assignment = InferenceSession(ir.to_proto(copy).SerializeToString()).run(None, feeds)
    np.testing.assert_allclose(score.sum(), 1.0, atol=1e-5)
    kept = [i for i in range(1, 18) if list(assignment[0]).index(assignment[0, i]) == i]
    best = np.argsort(-score[0, 1:])[:7] + 1
    assert set(best) <= set(range(1, 18))
    assert len(set(assignment[0])) == 8
    # The least attended tokens share a place with a kept one; each of the seven best has its own.
    assert len({assignment[0, i] for i in best}) == 7
    assert len(kept) <= 8


def _attention_with(mask: str, residual: bool = True, attributes: str = "", queries: str = "q") -> ir.Model:
    lines = f"""
      q = Reshape (x, split) k = Reshape (y, split)
      qt = Transpose <perm = [0, 2, 1, 3]> (q) kt = Transpose <perm = [0, 2, 1, 3]> (k)
      a = Attention {attributes} (qt, kt, kt{mask})
      at = Transpose <perm = [0, 2, 1, 3]> (a) flat = Reshape (at, joined) p = MatMul (flat, w)
      s = {"Add (x, p)" if residual else "Identity (p)"}
      m = MatMul (s, w) z = Add (s, m)"""
    text = f"""<ir_version: 11, opset_import: ["": 23]>
      g (float[1, 8, 4] x, float[1, 8, 4] y, float[1, 2, 8, 8] pairs) => (float[1, 8, 4] z)
      <int64[4] split = {{1, 8, 2, 2}}, int64[3] joined = {{1, 8, 4}}, float[4, 4] w = {{1, 0, 0, 0,
       0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1}}> {{ {lines} }}"""
    parsed = onnx.parser.parse_model(text)
    proto = onnx.shape_inference.infer_shapes(parsed, strict_mode=True, data_prop=True)
    return ir.from_proto(proto)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (_attention_with(", pairs"), "a value for each pair of tokens"),
        (_attention_with("", attributes="<is_causal = 1>"), "causal"),
        (_attention_with("", residual=False), "residual connection"),
    ],
)
def test_what_cannot_be_reduced_is_left_alone_with_a_reason(model: ir.Model, reason: str) -> None:
    log = MatchLog()
    assert find_sites(model, log) == []
    assert reason in log.misses[0].reason
    result = MergeTokens()(model)
    assert not result.modified


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("r=-1", "negative"),
        ("keep=0", "fraction"),
        ("keep=1.5", "fraction"),
        ("9:3", "choose layers from 0 to 2"),
        ("0:9", "choose at most 8"),
        ("0:8+1:5", "choose at most 4"),
        ("half", "no schedule"),
        ("3:x", "no schedule"),
        ("0:3+0:4", "no schedule"),
        ("0:3+1:all+2:all", "no schedule"),
        ("0:3+7:all", "choose layers from 0 to 2"),
    ],
)
def test_bad_schedules_say_what_would_work(text: str, words: str) -> None:
    sites = find_sites(Encoder().model())
    with pytest.raises(RequestError, match=words) as caught:
        Schedule.parse(text, sites)
    assert caught.value.exit_status == 2


def test_schedules_have_names_that_read_back() -> None:
    sites = find_sites(Encoder().model())
    for text in ("r=2", "keep=0.5", "0:3+2:1", "0:3+1:all", "none"):
        schedule = Schedule.parse(text, sites)
        again = Schedule.parse(schedule.name, sites)
        assert {site: r for site, r in schedule.rates.items() if r} == dict(again.rates)


@pytest.mark.parametrize(
    "attention",
    [
        "t = Attention <q_num_heads = 2, kv_num_heads = 2> (x, x, x)",
        "k = Transpose <perm = [0, 2, 1]> (x) l = MatMul (x, k) p = Softmax (l) t = MatMul (p, x)",
    ],
)
def test_an_attention_inside_a_branch_is_no_site_and_is_named(attention: str) -> None:
    text = f"""<ir_version: 11, opset_import: ["": 23]>
        gated (float[1, 9, 12] x, bool open) => (float[1, 9, 12] y) {{
            y = If (open) <
                then_branch = on () => (float[1, 9, 12] t) {{ {attention} }},
                else_branch = off () => (float[1, 9, 12] e) {{ e = Identity (x) }}>
        }}"""
    model = ir.from_proto(onnx.parser.parse_model(text))
    [branch] = [node.attributes["then_branch"].as_graph() for node in model.graph]
    for node in branch:
        node.name = f"block.{node.op_type}"
    log = MatchLog()
    assert find_sites(model, log) == []
    [miss] = log.misses
    assert miss.reason.startswith("it is inside a branch or a loop")
    assert miss.node in ("block.Attention", "block.Softmax")
