"""Planted faults: a lowering that says something slightly wrong must not pass the fp32 gate.

Each fault changes what one lowering hands to MIL, the way a slip of its author would. The graph is
lowered, saved, read back and interpreted as any other; the same graph without the fault passes.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from coreml_graphs import make_model
from onnx import helper

from edgec.core.evaluation import Evaluator
from edgec.core.numerics import GATES, compare_arrays
from edgec.targets.coreml.lowering.site import Site

node = helper.make_node
Arguments = dict[str, Any]
Change = Callable[[Arguments], Arguments]


@dataclasses.dataclass(frozen=True)
class Fault:
    """What is planted: the first or every MIL op of a type gets other arguments, or becomes another op."""

    graph: str
    what: str
    mil_op: str
    change: Change = dict
    instead: str = ""
    every: bool = False


def put(**changed: Any) -> Change:
    """Other values for some arguments; None leaves one out."""
    return lambda arguments: {
        key: value for key, value in {**arguments, **changed}.items() if value is not None
    }


def mapped(name: str, function: Callable[[Any], Any]) -> Change:
    return lambda arguments: {**arguments, name: function(arguments[name])}


def swapped(one: str, other: str) -> Change:
    return lambda arguments: {**arguments, one: arguments[other], other: arguments[one]}


def scaled(name: str, factor: float = 1.05) -> Change:
    return mapped(name, lambda value: (value * np.float32(factor)).astype(np.float32))


def graphs() -> dict[str, ir.Model]:
    """Small graphs with weights that leave no term invisible."""
    rng = np.random.default_rng(3)

    def drawn(*shape: int, low: float = 0.5, high: float = 1.5) -> np.ndarray:
        return rng.uniform(low, high, shape).astype(np.float32) * rng.choice([-1, 1], shape).astype(
            np.float32
        )

    def model(nodes: list, shape: tuple, /, **constants: Any) -> ir.Model:
        arrays = {name: np.asarray(value) for name, value in constants.items()}
        return make_model(nodes, {"x": ("float32", shape)}, {"y": ("float32", None)}, arrays)

    def attention(shape: tuple, more: list, heads: tuple = (2, 2), **attributes: Any) -> ir.Model:
        names = ["q", "k", "v"]
        inputs = {"q": ("float32", shape), "k": ("float32", (1, heads[1], *shape[2:]))}
        inputs["v"] = inputs["k"]
        past = {"pk": ("float32", (1, heads[1], 3, shape[3])), "pv": ("float32", (1, heads[1], 3, shape[3]))}
        if "pk" in more:
            inputs |= past
        if "m" in more:
            inputs["m"] = ("bool", (shape[2], shape[2]))
        outputs = ["y", "present_k", "present_v"] if "pk" in more else ["y"]
        nodes = [node("Attention", names + more, outputs, **attributes)]
        return make_model(nodes, inputs, {"y": ("float32", None)})

    image = (2, 4, 6, 5)
    gates = {"w": drawn(1, 12, 3), "r": drawn(1, 12, 4), "b": drawn(1, 24)}
    lstm = {"w": drawn(2, 16, 3), "r": drawn(2, 16, 4), "b": drawn(2, 32)}
    cubic = {"s": np.array([1, 1, 1.5, 2], np.float32)}
    return {
        "layer norm": model(
            [node("LayerNormalization", ["x", "w", "b"], ["y"])], (2, 5, 5), w=drawn(5), b=drawn(5)
        ),
        "rms norm": model([node("RMSNormalization", ["x", "w"], ["y"])], (2, 5, 6), w=drawn(6)),
        "batch norm": model(
            [node("BatchNormalization", ["x", "w", "b", "m", "v"], ["y"])],
            image,
            w=drawn(4),
            b=drawn(4),
            m=drawn(4),
            v=np.abs(drawn(4)) / 100,
        ),
        "group norm": model(
            [node("GroupNormalization", ["x", "w", "b"], ["y"], num_groups=2)], image, w=drawn(4), b=drawn(4)
        ),
        "gelu": model([node("Gelu", ["x"], ["y"])], (4, 9)),
        "attention": attention((1, 2, 6, 8), [], scale=0.3, is_causal=1),
        "grouped attention": attention((1, 4, 5, 8), [], heads=(4, 2)),
        "masked attention": attention((1, 2, 5, 8), ["m"]),
        "past attention": attention((1, 2, 4, 8), ["", "pk", "pv"], is_causal=1),
        "attention in parts": attention((1, 2, 6, 8), [], softcap=2.0),
        "conv": model(
            [
                node(
                    "Conv",
                    ["x", "w", "b"],
                    ["y"],
                    pads=[1, 0, 0, 1],
                    strides=[2, 1],
                    dilations=[1, 2],
                    group=2,
                )
            ],
            image,
            w=drawn(4, 2, 3, 3),
            b=drawn(4),
        ),
        "conv transpose": model(
            [node("ConvTranspose", ["x", "w", "b"], ["y"], strides=[2, 1], pads=[1, 0, 0, 1])],
            image,
            w=drawn(4, 3, 3, 3),
            b=drawn(3),
        ),
        "gemm": model(
            [node("Gemm", ["x", "w", "b"], ["y"], transB=1, alpha=0.7)], (4, 6), w=drawn(6, 6), b=drawn(6)
        ),
        "matmul": make_model(
            [node("MatMul", ["x", "z"], ["y"])],
            {"x": ("float32", (2, 4, 4)), "z": ("float32", (2, 4, 4))},
            {"y": ("float32", None)},
        ),
        "softmax": model([node("Softmax", ["x"], ["y"], axis=1)], (3, 4, 4)),
        "log softmax": model([node("LogSoftmax", ["x"], ["y"])], (3, 5)),
        "average pool": model(
            [node("AveragePool", ["x"], ["y"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])], image
        ),
        "max pool": model(
            [node("MaxPool", ["x"], ["y"], kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1])], image
        ),
        "resize": model([node("Resize", ["x", "", "s"], ["y"], mode="linear")], image, s=cubic["s"]),
        "resize nearest": model([node("Resize", ["x", "", "s"], ["y"], mode="nearest")], image, s=cubic["s"]),
        "resize cubic": model([node("Resize", ["x", "", "s"], ["y"], mode="cubic")], image, s=cubic["s"]),
        "reduce": model([node("ReduceMean", ["x", "a"], ["y"])], (3, 4, 4), a=np.array([1])),
        "gather": model([node("Gather", ["x", "i"], ["y"], axis=1)], (4, 5), i=np.array([-1, 0, -3])),
        "slice": model(
            [node("Slice", ["x", "s", "e"], ["y"])], (6, 5), s=np.array([1, 0]), e=np.array([-1, 4])
        ),
        "concat": model([node("Neg", ["x"], ["n"]), node("Concat", ["x", "n"], ["y"], axis=1)], (3, 4)),
        "split": model(
            [node("Split", ["x", "s"], ["a", "b"], axis=1), node("Concat", ["b", "a"], ["y"], axis=1)],
            (3, 4),
            s=np.array([1, 3]),
        ),
        "transpose": model([node("Transpose", ["x"], ["y"], perm=[0, 2, 1])], (2, 4, 4)),
        "pad": model([node("Pad", ["x", "p"], ["y"], mode="reflect")], (3, 5), p=np.array([0, 2, 0, 1])),
        "rotary": model(
            [node("RotaryEmbedding", ["x", "c", "s"], ["y"])],
            (1, 2, 5, 8),
            c=np.cos(drawn(1, 5, 4)),
            s=np.sin(drawn(1, 5, 4)),
        ),
        "lstm": model(
            [node("LSTM", ["x", "w", "r", "b"], ["y"], hidden_size=4, direction="bidirectional")],
            (5, 2, 3),
            **lstm,
        ),
        "gru": model(
            [node("GRU", ["x", "w", "r", "b"], ["y"], hidden_size=4, linear_before_reset=1)],
            (3, 2, 3),
            **gates,
        ),
        "divide": model([node("Div", ["x", "d"], ["y"])], (3, 4), d=drawn(4)),
        "where": model(
            [node("Less", ["x", "z"], ["c"]), node("Where", ["c", "x", "n"], ["y"])],
            (3, 4),
            z=np.float32(0.1),
            n=np.float32(2.5),
        ),
        "leaky": model([node("LeakyRelu", ["x"], ["y"], alpha=0.1)], (3, 4)),
        "elu": model([node("Elu", ["x"], ["y"], alpha=0.7)], (3, 4)),
        "hard swish": model([node("HardSwish", ["x"], ["y"])], (3, 9)),
        "clip": model([node("Clip", ["x", "l", "h"], ["y"])], (3, 9), l=np.float32(-0.3), h=np.float32(0.6)),
        "cumsum": model([node("CumSum", ["x", "a"], ["y"], exclusive=1)], (3, 4), a=np.array(1)),
        "top k": model([node("TopK", ["x", "k"], ["y", "i"])], (3, 6), k=np.array([2])),
        "log": model([node("Exp", ["x"], ["e"]), node("Log", ["e"], ["y"])], (3, 4)),
        "depth to space": model([node("DepthToSpace", ["x"], ["y"], blocksize=2, mode="CRD")], (1, 8, 2, 2)),
        "quantize": model(
            [
                node("QuantizeLinear", ["x", "s", "z"], ["q"]),
                node("DequantizeLinear", ["q", "s", "z"], ["y"]),
            ],
            (3, 9),
            s=np.float32(0.05),
            z=np.array(3, np.int8),
        ),
        "windows": model(
            [
                node("Reshape", ["x", "a"], ["1"]),
                node("Transpose", ["1"], ["2"], perm=[0, 1, 3, 2, 4, 5]),
                node("Reshape", ["2", "b"], ["y"]),
            ],
            (2, 4, 4, 3),
            a=np.array([2, 2, 2, 2, 2, 3]),
            b=np.array([8, 4, 3]),
        ),
    }


def shifted(array: np.ndarray) -> np.ndarray:
    """A causal mask that lets each query see one key too many."""
    return np.roll(array, 1, -1)


def repeated_wrongly(arguments: Arguments) -> Arguments:
    """Grouped heads as h0, h1, h0, h1 where they are h0, h0, h1, h1."""
    return {**arguments, "reps": np.array([1, 2, 1, 1, 1], np.int32)}


def reordered(stacked: np.ndarray) -> np.ndarray:
    """Gates in ONNX's order."""
    i, f, o, c = np.split(stacked, 4)
    return np.concatenate([i, o, f, c])


FAULTS = [
    Fault("layer norm", "over the wrong axis", "layer_norm", put(axes=np.array([1], np.int32))),
    Fault("layer norm", "epsilon 1e-6", "layer_norm", put(epsilon=np.float32(1e-6))),
    Fault("layer norm", "no scale", "layer_norm", mapped("gamma", np.ones_like)),
    Fault("layer norm", "no bias", "layer_norm", put(beta=None)),
    Fault("layer norm", "scale off by 5 %", "layer_norm", scaled("gamma")),
    Fault("rms norm", "epsilon 1e-6", "layer_norm", put(epsilon=np.float32(1e-6))),
    Fault("rms norm", "the mean taken off", "concat", mapped("values", lambda pair: [pair[0], pair[0]])),
    Fault("rms norm", "negation off by 5 %", "mul", scaled("y")),
    Fault("batch norm", "mean and bias swapped", "batch_norm", swapped("mean", "beta")),
    Fault("batch norm", "epsilon 1e-3", "batch_norm", put(epsilon=np.float32(1e-3))),
    Fault("batch norm", "no scale", "batch_norm", put(gamma=None)),
    Fault("group norm", "other groups", "layer_norm", put(axes=np.array([1, 2], np.int32))),
    Fault("group norm", "no bias", "add", swapped("x", "x"), instead="first"),
    Fault("gelu", "by tanh", "gelu", put(mode="TANH_APPROXIMATION")),
    Fault("gelu", "by sigmoid", "gelu", put(mode="SIGMOID_APPROXIMATION")),
    Fault("attention", "scale off by 5 %", "mul", scaled("y")),
    Fault("attention", "no scale", "mul", instead="first"),
    Fault("attention", "no mask", "scaled_dot_product_attention", put(attn_mask=None)),
    Fault("attention", "mask off by one", "scaled_dot_product_attention", mapped("attn_mask", shifted)),
    Fault("attention", "mask too weak", "scaled_dot_product_attention", scaled("attn_mask", 5e-4)),
    Fault("attention", "query and key swapped", "scaled_dot_product_attention", swapped("query", "key")),
    Fault("attention", "key and value swapped", "scaled_dot_product_attention", swapped("key", "value")),
    Fault("grouped attention", "heads interleaved", "tile", repeated_wrongly, every=True),
    Fault("masked attention", "mask inverted", "select", swapped("a", "b")),
    Fault(
        "past attention",
        "past behind present",
        "concat",
        mapped("values", lambda pair: pair[::-1]),
        every=True,
    ),
    Fault("attention in parts", "softmax over queries", "softmax", put(axis=-2)),
    Fault("attention in parts", "scores not capped", "tanh", instead="identity"),
    Fault("attention in parts", "scale off by 5 %", "mul", scaled("y")),
    Fault("conv", "padding turned round", "conv", mapped("pad", lambda pad: pad[[1, 0, 3, 2]])),
    Fault("conv", "no bias", "conv", put(bias=None)),
    Fault("conv", "kernel turned round", "conv", mapped("weight", lambda w: w[:, :, ::-1, ::-1].copy())),
    Fault("conv", "kernel transposed", "conv", mapped("weight", lambda w: w.swapaxes(2, 3).copy())),
    Fault("conv", "channels within a group swapped", "conv", mapped("weight", lambda w: w[:, ::-1].copy())),
    Fault(
        "conv transpose",
        "kernel turned round",
        "conv_transpose",
        mapped("weight", lambda w: w[:, :, ::-1, ::-1].copy()),
    ),
    Fault("conv transpose", "no bias", "conv_transpose", put(bias=None)),
    Fault("gemm", "weight not transposed", "linear", mapped("weight", lambda w: w.T.copy())),
    Fault("gemm", "no bias", "linear", put(bias=None)),
    Fault("gemm", "alpha off by 5 %", "linear", scaled("weight")),
    Fault("matmul", "operands swapped", "matmul", swapped("x", "y")),
    Fault("matmul", "y transposed", "matmul", put(transpose_y=True)),
    Fault("softmax", "the wrong axis", "softmax", put(axis=2)),
    Fault("log softmax", "epsilon in the logarithm", "log", put(epsilon=np.float32(1e-3))),
    Fault("average pool", "padding counted", "avg_pool", put(exclude_padding_from_average=False)),
    Fault("average pool", "padding turned round", "avg_pool", put(pad=np.array([2, 0, 2, 0], np.int32))),
    Fault("max pool", "padding on the other side", "max_pool", put(pad=np.array([1, 1, 1, 0], np.int32))),
    Fault("max pool", "an average", "max_pool", instead="avg_pool"),
    Fault("resize", "corners aligned", "resize_bilinear", put(sampling_mode="STRICT_ALIGN_CORNERS")),
    Fault("resize", "no half pixel", "resize_bilinear", put(sampling_mode="DEFAULT")),
    Fault(
        "resize nearest", "rounded up", "gather", mapped("indices", lambda at: np.minimum(at + 1, at.max()))
    ),
    Fault("resize cubic", "weights off by 5 %", "matmul", scaled("x")),
    Fault("reduce", "the wrong axis", "reduce_mean", lambda a: {**a, "axes": np.array([2], np.int32)}),
    Fault("reduce", "a sum", "reduce_mean", instead="reduce_sum"),
    Fault(
        "gather", "negative places cut off", "gather", mapped("indices", lambda at: np.where(at > 1, 0, at))
    ),
    Fault(
        "slice",
        "off by one",
        "slice_by_index",
        lambda a: {**a, "begin": a["begin"] - [1, 0], "end": a["end"] - [1, 0]},
    ),
    Fault("concat", "operands swapped", "concat", mapped("values", lambda pair: pair[::-1])),
    Fault("split", "sizes swapped", "split", mapped("split_sizes", lambda sizes: sizes[::-1].copy())),
    Fault("transpose", "axes left alone", "transpose", put(perm=np.array([0, 1, 2], np.int32))),
    Fault(
        "pad",
        "edges repeated",
        "gather",
        mapped("indices", lambda at: np.array([0, 0, *range(5), 4], np.int32)),
    ),
    Fault("rotary", "sine negated", "sub", instead="add"),
    Fault("rotary", "cosine off by 5 %", "mul", scaled("y")),
    Fault("rotary", "halves swapped", "concat", mapped("values", lambda pair: pair[::-1])),
    Fault("lstm", "gates in ONNX's order", "lstm", mapped("weight_ih", reordered)),
    Fault("lstm", "no bias", "lstm", put(bias=None)),
    Fault("lstm", "backward not turned round", "reverse", instead="first"),
    Fault("gru", "state not reset", "sigmoid", instead="identity"),
    Fault("divide", "operands swapped", "real_div", swapped("x", "y")),
    Fault("where", "branches swapped", "select", swapped("a", "b")),
    Fault("leaky", "the default slope", "leaky_relu", put(alpha=np.float32(0.01))),
    Fault("elu", "the default alpha", "elu", put(alpha=np.float32(1.0))),
    Fault("hard swish", "a slope of 0.2", "sigmoid_hard", put(alpha=np.float32(0.2))),
    Fault("clip", "no upper bound", "clip", put(beta=np.float32(1e4))),
    Fault("cumsum", "inclusive", "cumsum", put(exclusive=False)),
    Fault("top k", "the smallest", "topk", put(ascending=True)),
    Fault("log", "epsilon in the logarithm", "log", put(epsilon=np.float32(1e-2))),
    Fault(
        "depth to space",
        "the other order",
        "pixel_shuffle",
        lambda a: {"x": a["x"], "block_size": 2},
        instead="depth_to_space",
    ),
    Fault("quantize", "no zero point", "add", instead="first"),
    Fault("quantize", "rounded down", "round", instead="floor"),
    Fault("windows", "rows and columns not swapped", "transpose", put(perm=np.array([0, 1, 2, 3], np.int32))),
]


NAMES = [f"{fault.graph}, {fault.what}" for fault in FAULTS]


@functools.cache
def case(name: str) -> tuple[ir.Model, dict[str, np.ndarray], list[np.ndarray]]:
    """A graph, drawn inputs, and what ONNX Runtime computes."""
    model = graphs()[name]
    rng = np.random.default_rng(11)
    feeds: dict[str, np.ndarray] = {}
    for value in model.graph.inputs:
        assert value.name is not None
        shape = [int(size) for size in value.shape or ()]
        feeds[value.name] = rng.normal(size=shape).astype(np.float32)
        if value.dtype == ir.DataType.BOOL:
            feeds[value.name] = np.tri(shape[0], k=1, dtype=bool)
    # Small differences between features make the epsilon of a norm count, as behind a layer scale.
    if name in ("layer norm", "rms norm"):
        feeds = {key: array * np.float32(0.05) for key, array in feeds.items()}
    with Evaluator(model) as evaluator:
        return model, feeds, [np.asarray(array) for array in evaluator.run(feeds).values()]


def passes(name: str, saved: Any) -> bool:
    """Whether the graph, lowered and read back, keeps the fp32 gate."""
    model, feeds, references = case(name)
    found = saved(model)(feeds)
    return all(
        got.shape == wanted.shape and GATES["fp32"].accepts(compare_arrays(wanted, got))
        for wanted, got in zip(references, found, strict=True)
    )


def plant(monkeypatch: pytest.MonkeyPatch, fault: Fault) -> list[str]:
    """Change the arguments of the fault's op; returns where it was planted."""
    emit = Site.emit
    planted: list[str] = []

    def faulty(site: Site, mil_op: str, **arguments: Any) -> Any:
        if mil_op != fault.mil_op or (planted and not fault.every):
            return emit(site, mil_op, **arguments)
        planted.append(site.node.name or "")
        if fault.instead == "first":
            return arguments["x"]
        return emit(site, fault.instead or mil_op, **fault.change(arguments))

    monkeypatch.setattr(Site, "emit", faulty)
    return planted


@pytest.mark.parametrize("name", graphs())
def test_the_graph_without_a_fault_passes(saved, name: str) -> None:
    assert passes(name, saved)


@pytest.mark.parametrize("fault", FAULTS, ids=NAMES)
def test_a_planted_fault_is_caught(saved, monkeypatch: pytest.MonkeyPatch, fault: Fault) -> None:
    planted = plant(monkeypatch, fault)
    caught = not passes(fault.graph, saved)
    assert planted, f"nothing emits {fault.mil_op}"
    assert caught, "the gate does not see it"


def test_there_are_enough_faults() -> None:
    assert len(set(NAMES)) == len(NAMES) >= 60
