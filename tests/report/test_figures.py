"""Numbers, groups of layers and charts."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgec.report import charts, formats, layers


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.0, "0"), (0.01234, "0.0123"), (1.234, "1.23"), (12.34, "12.3"), (1234.5, "1,234")],
)
def test_milliseconds_have_three_digits(value: float | None, text: str) -> None:
    assert formats.milliseconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (3.14e-6, "3.1e-6"), (1e-4, "1e-4"), (2.5, "2.5e0"), (math.inf, "not finite")],
)
def test_small_differences(value: float, text: str) -> None:
    assert formats.small(value) == text


@given(st.floats(1e-15, 1.0))
def test_a_cosine_never_shows_more_nines_than_it_has(gap: float) -> None:
    value = 1 - gap
    shown = float(formats.cosine(value))
    assert shown <= value + 1e-15
    assert shown >= value - max(gap * 0.5, 1e-9) - 1e-15


def test_scores_and_drops() -> None:
    assert formats.score(0.97777, "top-1 accuracy") == "97.78 %"
    assert formats.score(0.99998, "mean cosine to the source") == "0.99998"
    assert formats.drop(0.0028, "top-1 accuracy") == "0.28 points"
    assert formats.drop(-0.0028, "top-1 accuracy") == "−0.28 points"
    assert formats.drop(-1e-9, "top-1 accuracy") == "0.00 points"


def test_counts_and_plurals() -> None:
    assert [formats.count(value) for value in (None, 0, 999, 5_717_416, 1_258_000_000)] == [
        "–",
        "0",
        "999",
        "5.72 M",
        "1.26 G",
    ]
    assert [formats.plural(1, "pass"), formats.plural(2, "pass"), formats.plural(2, "layer")] == [
        "1 pass",
        "2 passes",
        "2 layers",
    ]


@pytest.mark.parametrize(
    ("source", "module"),
    [
        ("blocks.3.attn.qkv", "blocks.3"),
        ("/blocks/blocks.3/attn/MatMul", "blocks.3"),
        ("encoder.layer.11.output.dense", "encoder.layer.11"),
        ("patch_embed.proj", "patch_embed"),
        ("head", "head"),
        ("", ""),
        ("///", "///"),
    ],
)
def test_modules_of_layers(source: str, module: str) -> None:
    assert layers.module(source) == module


@pytest.mark.parametrize(
    ("op", "kind"),
    [
        ("ScaledDotProductAttention", "attention"),
        ("FullyConnected", "matrix product"),
        ("FusedMatMul", "matrix product"),
        ("Conv", "convolution"),
        ("MVN", "normalisation"),
        ("LayerNormalization", "normalisation"),
        ("Eltwise", "elementwise"),
        ("Transpose", "data movement"),
        ("Softmax", "softmax"),
        ("MaxPool", "pooling and sums"),
        ("Mystery", "other"),
    ],
)
def test_kinds_of_ops(op: str, kind: str) -> None:
    assert layers.kind(op)[0] == kind


def test_groups_add_up() -> None:
    profile: list = [
        {"layer": "a", "source": "blocks.0.fc", "op": "MatMul", "microseconds": 3.0},
        {"layer": "b", "source": "blocks.0.norm", "op": "MVN", "microseconds": 1.0},
        {"layer": "c", "source": "head", "op": "MatMul", "microseconds": 4.0},
    ]
    assert [(g.name, g.layers, g.share) for g in layers.by_module(profile)] == [
        ("blocks.0", 2, 0.5),
        ("head", 1, 0.5),
    ]
    assert [g.name for g in layers.by_kind(profile)] == ["matrix product", "normalisation"]
    assert layers.by_module([{**profile[0], "microseconds": 0.0}])[0].share == 0.0


def test_small_modules_are_summed_up_last() -> None:
    times = [("view", 0.4), ("blocks.0", 60.0), ("cat", 0.3), ("blocks.1", 38.3), ("head", 1.0)]
    profile: list = [{"layer": s, "source": s, "op": "MatMul", "microseconds": t} for s, t in times]
    groups = layers.by_module(profile)
    assert [(g.name, g.layers) for g in groups] == [
        ("blocks.0", 1),
        ("blocks.1", 1),
        ("head", 1),
        ("2 smaller modules", 2),
    ]
    assert sum(g.share for g in groups) == pytest.approx(1)


def numbers(svg: str, tag: str, attribute: str) -> list[float]:
    return [float(node.get(attribute) or 0) for node in ElementTree.fromstring(svg) if node.tag == tag]


def test_a_spread_bar_is_drawn_to_scale() -> None:
    svg = charts.spread_bar(10.0, 15.0, [9.0, 10.0, 12.0], 20.0, "chosen")
    assert numbers(svg, "rect", "width") == [500.0]
    assert numbers(svg, "line", "x1") == [450.0, 450.0, 600.0, 750.0]
    assert "tick" not in charts.spread_bar(10.0, 21.0, [9.0], 20.0)


@given(st.lists(st.floats(0, 1e9), max_size=20))
def test_a_strip_fills_its_width_in_order(sizes: list[float]) -> None:
    svg = charts.strip([(size, "other", "t<&>") for size in sizes])
    starts = numbers(svg, "rect", "x")
    assert starts == sorted(starts)
    assert all(0 <= start <= 1000.01 for start in starts)


@given(st.floats(0, allow_nan=False), st.floats(1e-9, 1))
def test_headroom_says_which_side_of_the_bound(value: float, bound: float) -> None:
    svg = charts.headroom(value, bound)
    assert ("fill good" in svg) == (value <= bound)
    assert max(numbers(svg, "rect", "width")) <= 1000.0


def test_charts_carry_no_text_of_their_own() -> None:
    for svg in (
        charts.bar(1, 2),
        charts.bar(0, 0),
        charts.spread_bar(0, None, [], 0),
        charts.headroom(1e-6, 1e-4),
    ):
        assert not re.search(r"<text|NaN|nan|inf", svg)
        ElementTree.fromstring(svg)
