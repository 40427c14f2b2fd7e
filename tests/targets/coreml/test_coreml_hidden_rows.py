"""Masks whose rows hide every key: what the source computes there, in every form of attention."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from coreml_graphs import make_model, ops_of, packaged
from onnx import helper

from edgec.core.graph import Arrays

node = helper.make_node
LOWEST = float(np.finfo(np.float32).min)
SHAPE = [2, 2, 8, 16]
RNG = np.random.default_rng(0)

TENSORS = dict.fromkeys("qkv", ("float32", SHAPE))
IN_PARTS = [
    node("Transpose", ["k"], ["kt"], perm=[0, 1, 3, 2]),
    node("MatMul", ["q", "kt"], ["raw"]),
    node("Add", ["raw", "bias"], ["s"]),
    node("Softmax", ["s"], ["p"], axis=-1),
    node("MatMul", ["p", "v"], ["y"]),
]
FUSED = [node("Attention", ["q", "k", "v", "bias"], ["y"], scale=1.0)]
FROM_INTEGERS = [
    node("Cast", ["mask"], ["m"], to=1),
    node("Unsqueeze", ["m", "queries"], ["mq"]),
    node("Unsqueeze", ["m", "keys"], ["mk"]),
    node("Mul", ["mq", "mk"], ["seen"]),
    node("Sub", ["one", "seen"], ["hidden"]),
    node("Mul", ["hidden", "fill"], ["bias"]),
]


def computed(attention: list, fill: float) -> ir.Model:  # type: ignore[type-arg]
    """Attention under a mask that the graph makes from padding."""
    constants = {
        "queries": np.array([1, 3]), "keys": np.array([1, 2]), "one": np.float32(1), "fill": np.float32(fill),
    }  # fmt: skip
    inputs = {**TENSORS, "mask": ("int64", [2, 8])}
    return make_model([*FROM_INTEGERS, *attention], inputs, {"y": ("float32", SHAPE)}, constants)


def given(attention: list) -> ir.Model:  # type: ignore[type-arg]
    """Attention under an additive mask from outside."""
    inputs = {**TENSORS, "bias": ("float32", [2, 1, 8, 8])}
    return make_model(list(attention), inputs, {"y": ("float32", SHAPE)})


def tensors() -> Arrays:
    """Drawn queries, keys and values; scores reach some 30."""
    return {name: (RNG.standard_normal(SHAPE) * 1.4).astype(np.float32) for name in "qkv"}


def padded() -> Arrays:
    """Padding behind the first sample, in front of the second."""
    mask = np.ones((2, 8), np.int64)
    mask[0, 5:] = 0
    mask[1, :3] = 0
    return tensors() | {"mask": mask}


def rows(fill: float, *, whole: bool) -> Arrays:
    """A mask with holes, and with rows that hide every key."""
    seen = RNG.random((2, 1, 8, 8)) > 0.4
    seen[..., 0] = True
    if whole:
        seen[0, :, 2] = seen[1, :, 5:] = False
    return tensors() | {"bias": np.where(seen, 0, fill).astype(np.float32)}


def reference(feeds: Arrays, fill: float | None = None) -> np.ndarray:
    """Attention in float64, which loses scores beside float32's lowest number as float32 does."""
    wide = {name: array.astype(np.float64) for name, array in feeds.items()}
    bias = wide.get("bias")
    if bias is None:
        bias = (1 - wide["mask"][:, None, :, None] * wide["mask"][:, None, None, :]) * fill
    with np.errstate(invalid="ignore"):
        scores = wide["q"] @ wide["k"].swapaxes(-1, -2) + bias
        powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True) @ wide["v"]


def close(found: np.ndarray, expected: np.ndarray, precision: str) -> bool:
    """Scores of 30 in fp16 are off by 0.015, and so is each probability, relatively."""
    assert np.array_equal(np.isnan(found), np.isnan(expected))
    off = np.nanmax(np.abs(found - expected)) / np.nanstd(expected)
    return bool(off < (1e-5 if precision == "fp32" else 0.05))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("target", ["ios16", "ios18", "ios18:neural-engine"])
@pytest.mark.parametrize("attention", [FUSED, IN_PARTS], ids=["fused", "in parts"])
@pytest.mark.parametrize("fill", [LOWEST, -1e4])
def test_mask_made_of_padding(tmp_path, fill: float, attention, target: str, precision: str) -> None:  # type: ignore[no-untyped-def]
    model = computed(attention, fill)
    open_mask = tensors() | {"mask": np.ones((2, 8), np.int64)}
    package, _ = packaged(model, [open_mask], tmp_path / "engine", target, precision)
    for feeds in (open_mask, padded(), tensors() | {"mask": np.zeros((2, 8), np.int64)}):
        assert close(package.run(feeds)["y"], reference(feeds, fill), precision)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("target", ["ios16", "ios18", "ios18:neural-engine"])
@pytest.mark.parametrize("attention", [FUSED, IN_PARTS], ids=["fused", "in parts"])
def test_mask_given_from_outside(tmp_path, attention, target: str, precision: str) -> None:  # type: ignore[no-untyped-def]
    package, _ = packaged(given(attention), [rows(-1e4, whole=False)], tmp_path / "engine", target, precision)
    cases = [(fill, whole) for fill in (-1e4, -65504.0, LOWEST) for whole in (False, True)]
    for fill, whole in [*cases, (-np.inf, False)]:
        feeds = rows(fill, whole=whole)
        assert close(package.run(feeds)["y"], reference(feeds), precision), fill


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_rows_of_minus_infinity(tmp_path, precision: str) -> None:
    """Zeros by ONNX's Attention, no number by a softmax."""
    feeds = rows(-np.inf, whole=True)
    whole = np.isneginf(feeds["bias"]).all(-1)[:, 0]
    package, _ = packaged(given(IN_PARTS), [rows(0, whole=False)], tmp_path / "parts", "ios18", precision)
    assert close(package.run(feeds)["y"], reference(feeds), precision)
    assert np.isnan(package.run(feeds)["y"][:, 0][whole]).all()
    package, _ = packaged(given(FUSED), [rows(0, whole=False)], tmp_path / "fused", "ios18", precision)
    assert not package.run(feeds)["y"][:, 0][whole].any()


@pytest.mark.parametrize("fill", [LOWEST, -np.inf])
def test_filled_scores(tmp_path, fill: float) -> None:
    """A guard behind the softmax finds the rows that have no number."""
    model = make_model(
        [
            node("Where", ["seen", "s", "fill"], ["masked"]),
            node("Softmax", ["masked"], ["p"], axis=-1),
            node("IsNaN", ["p"], ["lost"]),
            node("Where", ["lost", "zero", "p"], ["y"]),
        ],
        {"s": ("float32", [2, 8, 8]), "seen": ("bool", [2, 8, 8])},
        {"y": ("float32", [2, 8, 8])},
        {"fill": np.float32(fill), "zero": np.float32(0)},
    )
    seen = RNG.random((2, 8, 8)) > 0.4
    seen[0, 3] = False
    feeds = {"s": RNG.standard_normal((2, 8, 8)).astype(np.float32), "seen": seen}
    package, source = packaged(model, [feeds], tmp_path / "engine")
    assert np.abs(package.run(feeds)["y"] - source(feeds)["y"]).max() < 1e-3


@pytest.mark.parametrize("target", ["ios16", "ios18", "ios18:neural-engine"])
def test_boolean_mask(tmp_path, target: str) -> None:
    model = make_model(
        [node("Attention", ["q", "k", "v", "seen"], ["y"], scale=1.0)],
        {**TENSORS, "seen": ("bool", [2, 1, 8, 8])},
        {"y": ("float32", SHAPE)},
    )
    feeds = rows(-1, whole=True)
    feeds["seen"] = feeds.pop("bias") == 0
    package, _ = packaged(model, [], tmp_path / "engine", target, "fp32")
    hidden = ~feeds["seen"].any(-1)[:, 0]
    found = package.run(feeds)["y"]
    assert not found[np.repeat(hidden[:, None], 2, 1)].any()
    expected = reference(feeds | {"bias": np.where(feeds["seen"], 0, -np.inf)})
    assert np.abs(found - np.where(hidden[:, None, :, None], 0, expected)).max() < 1e-5


MASKS = {
    "constant": [node("Attention", ["q", "k", "v", "open"], ["y"])],
    "filled": [
        node("Transpose", ["k"], ["kt"], perm=[0, 1, 3, 2]),
        node("MatMul", ["q", "kt"], ["raw"]),
        node("Where", ["triangle", "raw", "fill"], ["s"]),
        node("Softmax", ["s"], ["p"], axis=-1),
        node("MatMul", ["p", "v"], ["y"]),
    ],
}


@pytest.mark.parametrize("fill", [LOWEST, -np.inf])
@pytest.mark.parametrize("case", MASKS)
def test_constant_mask_leaves_attention_in_half(tmp_path, case: str, fill: float) -> None:
    triangle = np.tri(8, dtype=bool)[None, None]
    known = np.where(triangle, 0, fill).astype(np.float32)
    constants = {"open": known, "triangle": triangle, "fill": np.float32(fill)}
    used = {name for one in MASKS[case] for name in one.input}
    kept = {name: array for name, array in constants.items() if name in used}
    model = make_model(list(MASKS[case]), TENSORS, {"y": ("float32", SHAPE)}, kept)
    package, _ = packaged(model, [tensors()], tmp_path / "engine")
    assert "cast" not in ops_of(package.interpreter)


def test_mask_made_of_booleans(tmp_path) -> None:
    nodes = [
        node("Cast", ["mask"], ["m"], to=1),
        node("Sub", ["one", "m"], ["hidden"]),
        node("Mul", ["hidden", "fill"], ["bias"]),
        *IN_PARTS,
    ]
    inputs = {**TENSORS, "mask": ("bool", [2, 1, 1, 8])}
    constants = {"one": np.float32(1), "fill": np.float32(LOWEST)}
    model = make_model(nodes, inputs, {"y": ("float32", SHAPE)}, constants)
    seen = np.ones((2, 1, 1, 8), bool)
    package, _ = packaged(model, [tensors() | {"mask": seen}], tmp_path / "engine")
    seen = seen.copy()
    seen[0, ..., 5:] = seen[1] = False
    feeds = tensors() | {"mask": seen}
    bias = np.where(seen, 0, LOWEST) + np.zeros((2, 1, 8, 8))
    assert close(package.run(feeds)["y"], reference(feeds | {"bias": bias}), "fp16")
