"""The black-box cases: small neutral graphs with their feeds, the same for every target."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import onnx
from onnx import ModelProto, NodeProto
from onnx import helper as h
from onnx.reference import ReferenceEvaluator

from edgec.core.dialect import EDGEC_DOMAIN, EDGEC_OPSET, IR_VERSION, ONNX_OPSET

BATCH, HEADS, QUERIES, KEYS, SIZE, WIDTH = 2, 4, 7, 9, 8, 32

Feeds = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Case:
    """One graph and two samples to run it on.

    Attributes:
        name: the case, dotted by subject.
        proto: the model, in the neutral dialect.
        feeds: inputs, one dict a sample; sizes may differ where the model leaves them open.
    """

    name: str
    proto: ModelProto
    feeds: tuple[Feeds, ...]


def drawn(seed: int, *shape: int) -> np.ndarray:
    """Normal numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def case(
    name: str,
    nodes: list[NodeProto],
    feeds: Callable[[int], Feeds],
    constants: Mapping[str, np.ndarray] | None = None,
    *,
    outputs: tuple[str, ...] = ("y",),
    sizes: Mapping[str, tuple[int | str, ...]] | None = None,
    samples: tuple[int, ...] = (1, 2),
) -> Case:
    """A case from its nodes; output shapes and types are inferred.

    Args:
        name: the case.
        nodes: the graph, in order.
        feeds: the feeds of a seed.
        constants: initializers.
        outputs: names of the outputs.
        sizes: input shapes that leave sizes open, by input.
        samples: the seeds.
    """
    for index, node in enumerate(nodes):
        node.name = node.name or f"{node.op_type.lower()}_{index}"
    first = feeds(samples[0])
    inputs = [
        h.make_tensor_value_info(
            key, h.np_dtype_to_tensor_dtype(array.dtype), (sizes or {}).get(key, array.shape)
        )
        for key, array in first.items()
    ]
    graph = h.make_graph(
        nodes,
        name.replace(".", "_"),
        inputs,
        [h.make_empty_tensor_value_info(output) for output in outputs],
        [onnx.numpy_helper.from_array(array, key) for key, array in (constants or {}).items()],
    )
    imports = [h.make_opsetid("", ONNX_OPSET)]
    if any(node.domain == EDGEC_DOMAIN for node in nodes):
        imports.append(h.make_opsetid(EDGEC_DOMAIN, EDGEC_OPSET))
    proto = h.make_model(graph, opset_imports=imports, ir_version=IR_VERSION)
    # GroupNormalization has no shape inference of its own: the evaluator knows every output's type.
    for info, array in zip(graph.output, ReferenceEvaluator(proto).run(None, first), strict=True):
        info.type.tensor_type.elem_type = h.np_dtype_to_tensor_dtype(array.dtype)
    proto = h.make_model(graph, opset_imports=imports, ir_version=IR_VERSION)
    return Case(name, onnx.shape_inference.infer_shapes(proto, data_prop=True), tuple(map(feeds, samples)))


def qkv(seed: int, heads: int = HEADS, key_heads: int = HEADS, keys: int = KEYS) -> Feeds:
    """Queries, keys and values, [batch, heads, length, size]."""
    return {
        "q": drawn(seed, BATCH, heads, QUERIES, SIZE),
        "k": drawn(seed + 10, BATCH, key_heads, keys, SIZE),
        "v": drawn(seed + 20, BATCH, key_heads, keys, SIZE),
    }


def attention(*extra: str, **attributes: object) -> list[NodeProto]:
    """One Attention node."""
    return [h.make_node("Attention", ["q", "k", "v", *extra], ["y"], **attributes)]


def padding(seed: int) -> np.ndarray:
    """A padding mask, [batch, 1, 1, keys]; the last keys of each sample are hidden."""
    lengths = np.random.default_rng(seed).integers(2, KEYS + 1, BATCH)
    return (np.arange(KEYS) < lengths[:, None])[:, None, None, :]


def attention_cases() -> list[Case]:
    """Attention in every form of the neutral dialect."""
    hidden = np.ones((1, 1, QUERIES, KEYS), bool)
    hidden[..., 2, :] = False
    join = {"shape": np.asarray([BATCH, QUERIES, HEADS * SIZE], np.int64)}
    joined = [h.make_node("Transpose", [name], [f"{name}_t"], perm=[0, 2, 1, 3]) for name in "qkv"] + [
        h.make_node("Reshape", ["q_t", "shape"], ["q_j"]),
        h.make_node("Reshape", ["k_t", "shape"], ["k_j"]),
        h.make_node("Reshape", ["v_t", "shape"], ["v_j"]),
        h.make_node("Attention", ["q_j", "k_j", "v_j"], ["y"], q_num_heads=HEADS, kv_num_heads=HEADS),
    ]
    open_sizes = {
        "q": (BATCH, HEADS, "queries", SIZE),
        "k": (BATCH, HEADS, "keys", SIZE),
        "v": (BATCH, HEADS, "keys", SIZE),
    }

    def growing(seed: int) -> Feeds:
        return qkv(seed, keys=KEYS + seed)

    return [
        case("attention.plain", attention(), qkv),
        case("attention.scale", attention(scale=0.7), qkv),
        case("attention.scale_one", attention(scale=1.0), qkv),
        case("attention.softcap", attention(softcap=3.0), qkv),
        case("attention.causal", attention(is_causal=1), lambda seed: qkv(seed, keys=QUERIES)),
        case("attention.causal_cross", attention(is_causal=1), qkv),
        case("attention.three_axes", joined, lambda seed: qkv(seed, keys=QUERIES), join),
        case("attention.grouped", attention(), lambda seed: qkv(seed, key_heads=2)),
        case("attention.one_key_head", attention(), lambda seed: qkv(seed, key_heads=1)),
        case(
            "attention.position_bias",
            attention("bias"),
            qkv,
            {"bias": drawn(5, 1, HEADS, QUERIES, KEYS)},
        ),
        case("attention.float_mask", attention("mask"), lambda s: qkv(s) | {"mask": drawn(s, QUERIES, KEYS)}),
        case("attention.padding_mask", attention("mask"), lambda s: qkv(s) | {"mask": padding(s)}),
        case("attention.constant_mask", attention("mask"), qkv, {"mask": padding(3)[:1]}),
        case("attention.row_without_keys", attention("mask"), qkv, {"mask": hidden}),
        case(
            "attention.sample_without_keys",
            attention("mask"),
            lambda s: qkv(s) | {"mask": padding(s) & np.asarray([True, False]).reshape(2, 1, 1, 1)},
        ),
        case(
            "attention.mask_and_causal",
            attention("mask", is_causal=1),
            lambda s: qkv(s) | {"mask": np.broadcast_to(padding(s), (BATCH, 1, QUERIES, KEYS)).copy()},
        ),
        case("attention.open_lengths", attention(), growing, sizes=open_sizes),
        case("attention.open_causal", attention(is_causal=1), growing, sizes=open_sizes),
        case(
            "attention.shared_by_two",
            [
                *attention("mask"),
                h.make_node("Attention", ["y", "k", "v", "mask"], ["z"]),
            ],
            lambda s: qkv(s) | {"mask": padding(s)},
            outputs=("y", "z"),
        ),
        packed_attention(),
    ]


def packed_attention() -> Case:
    """Self-attention from its packed projection to its output projection."""
    constants = {
        "w": drawn(1, WIDTH * 3, WIDTH * 9) / 8,
        "b": drawn(2, WIDTH * 9),
        "o": drawn(3, WIDTH * 3, WIDTH * 3) / 8,
        "five": np.asarray([BATCH, QUERIES, 3, HEADS, WIDTH * 3 // HEADS], np.int64),
        "three": np.asarray([BATCH, QUERIES, WIDTH * 3], np.int64),
        **{name: np.asarray(index, np.int64) for index, name in enumerate(("i0", "i1", "i2"))},
    }
    nodes = [
        h.make_node("MatMul", ["x", "w"], ["m"]),
        h.make_node("Add", ["m", "b"], ["p"]),
        h.make_node("Reshape", ["p", "five"], ["r"]),
        h.make_node("Transpose", ["r"], ["t"], perm=[2, 0, 3, 1, 4]),
        *[h.make_node("Gather", ["t", f"i{i}"], [name], axis=0) for i, name in enumerate("qkv")],
        h.make_node("Attention", ["q", "k", "v"], ["a"]),
        h.make_node("Transpose", ["a"], ["at"], perm=[0, 2, 1, 3]),
        h.make_node("Reshape", ["at", "three"], ["ar"]),
        h.make_node("MatMul", ["ar", "o"], ["ao"]),
        h.make_node("Add", ["ao", "x"], ["y"]),
    ]
    return case(
        "attention.packed_projection", nodes, lambda s: {"x": drawn(s, BATCH, QUERIES, WIDTH * 3)}, constants
    )


def norm_cases() -> list[Case]:
    """Normalisations."""
    vectors = {"gamma": drawn(1, WIDTH), "beta": drawn(2, WIDTH)}
    channels = {"gamma": drawn(1, 8), "beta": drawn(2, 8), "mean": drawn(3, 8), "var": drawn(4, 8) ** 2 + 0.5}
    weight = {"w": drawn(3, WIDTH, WIDTH), "b": drawn(4, WIDTH)}

    def sequence(seed: int) -> Feeds:
        return {"x": 3 * drawn(seed, BATCH, QUERIES, WIDTH) + 1}

    def image(seed: int) -> Feeds:
        return {"x": 3 * drawn(seed, BATCH, 6, 6, WIDTH) + 1}

    def planes(seed: int) -> Feeds:
        return {"x": drawn(seed, BATCH, 8, 6, 6)}

    norm = ["x", "gamma", "beta"]
    return [
        case("norm.layer", [h.make_node("LayerNormalization", norm, ["y"], axis=-1)], sequence, vectors),
        case(
            "norm.layer_of_image", [h.make_node("LayerNormalization", norm, ["y"], axis=-1)], image, vectors
        ),
        case(
            "norm.layer_into_linear",
            [
                h.make_node("LayerNormalization", norm, ["n"], axis=-1, epsilon=1e-3),
                h.make_node("MatMul", ["n", "w"], ["m"]),
                h.make_node("Add", ["m", "b"], ["y"]),
            ],
            sequence,
            vectors | weight,
        ),
        case(
            "norm.rms", [h.make_node("RMSNormalization", ["x", "gamma"], ["y"], axis=-1)], sequence, vectors
        ),
        case(
            "norm.batch", [h.make_node("BatchNormalization", [*norm, "mean", "var"], ["y"])], planes, channels
        ),
        case("norm.group", [h.make_node("GroupNormalization", norm, ["y"], num_groups=4)], planes, channels),
        case("norm.instance", [h.make_node("InstanceNormalization", norm, ["y"])], planes, channels),
    ]


def activation_cases() -> list[Case]:
    """Pointwise functions, on values that reach their tails."""

    def wide(seed: int) -> Feeds:
        return {"x": 6 * drawn(seed, BATCH, QUERIES, WIDTH)}

    found = [
        case("activation.gelu", [h.make_node("Gelu", ["x"], ["y"])], wide),
        case("activation.gelu_tanh", [h.make_node("Gelu", ["x"], ["y"], approximate="tanh")], wide),
        case(
            "activation.silu",
            [h.make_node("Sigmoid", ["x"], ["s"]), h.make_node("Mul", ["x", "s"], ["y"])],
            wide,
        ),
        case("activation.softmax_inner", [h.make_node("Softmax", ["x"], ["y"], axis=1)], wide),
    ]
    simple = ("HardSwish", "HardSigmoid", "Mish", "Erf", "Tanh", "Elu", "Softplus", "LeakyRelu")
    return found + [case(f"activation.{op.lower()}", [h.make_node(op, ["x"], ["y"])], wide) for op in simple]


def rotary_cases() -> list[Case]:
    """Rotary embedding, both ways of pairing."""
    caches = {"cos": drawn(1, 1, QUERIES, SIZE // 2), "sin": drawn(2, 1, QUERIES, SIZE // 2)}
    caches = {name: np.repeat(cache, BATCH, 0) for name, cache in caches.items()}

    def heads(seed: int) -> Feeds:
        return {"x": drawn(seed, BATCH, HEADS, QUERIES, SIZE)}

    return [
        case(
            f"rotary.{name}",
            [h.make_node("RotaryEmbedding", ["x", "cos", "sin"], ["y"], interleaved=interleaved)],
            heads,
            caches,
        )
        for name, interleaved in (("halves", 0), ("interleaved", 1))
    ]


def convolution_cases() -> list[Case]:
    """Convolutions, pooling and resizing."""

    def image(seed: int) -> Feeds:
        return {"x": drawn(seed, BATCH, 8, 12, 12)}

    conv = {"w": drawn(1, 16, 8, 3, 3) / 8, "b": drawn(2, 16)}
    depthwise = {"w": drawn(1, 8, 1, 3, 3) / 3}
    return [
        case(
            "conv.relu",
            [h.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1] * 4), h.make_node("Relu", ["c"], ["y"])],
            image,
            conv,
        ),
        case("conv.strided", [h.make_node("Conv", ["x", "w"], ["y"], strides=[2, 2])], image, conv),
        case(
            "conv.depthwise",
            [h.make_node("Conv", ["x", "w"], ["y"], group=8, pads=[1] * 4)],
            image,
            depthwise,
        ),
        case(
            "conv.residual",
            [
                h.make_node("Conv", ["x", "w"], ["c"], group=8, pads=[1] * 4),
                h.make_node("Add", ["c", "x"], ["y"]),
            ],
            image,
            depthwise,
        ),
        case(
            "pool.average_without_padding",
            [
                h.make_node(
                    "AveragePool", ["x"], ["y"], kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=0
                )
            ],
            image,
        ),
        case("pool.max", [h.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], strides=[2, 2])], image),
        case("pool.global", [h.make_node("GlobalAveragePool", ["x"], ["y"])], image),
        case(
            "resize.bilinear",
            [
                h.make_node(
                    "Resize",
                    ["x", "", "scales"],
                    ["y"],
                    mode="linear",
                    coordinate_transformation_mode="half_pixel",
                )
            ],
            image,
            {"scales": np.asarray([1, 1, 2, 2], np.float32)},
        ),
        case(
            "pad.reflect",
            [h.make_node("Pad", ["x", "pads"], ["y"], mode="reflect")],
            image,
            {"pads": np.asarray([0, 0, 1, 2, 0, 0, 2, 1], np.int64)},
        ),
    ]


def linear_cases() -> list[Case]:
    """Linear layers, and inputs whose batch is open."""
    weights = {"w": drawn(1, 96, 128) / 10, "b": drawn(2, 128), "w2": drawn(3, 128, 96) / 10}
    layer = [h.make_node("MatMul", ["x", "w"], ["m"]), h.make_node("Add", ["m", "b"], ["a"])]
    mlp = [*layer, h.make_node("Gelu", ["a"], ["g"]), h.make_node("MatMul", ["g", "w2"], ["y"])]
    chain = [*layer, h.make_node("MatMul", ["a", "w2"], ["y"])]

    def sequence(seed: int) -> Feeds:
        return {"x": drawn(seed, BATCH, QUERIES, 96)}

    def open_batch(seed: int) -> Feeds:
        return {"x": drawn(seed, seed, QUERIES, 96)}

    return [
        case("linear.mlp", mlp, sequence, weights),
        case("linear.chain", chain, sequence, weights),
        case("linear.open_batch", mlp, open_batch, weights, sizes={"x": ("batch", QUERIES, 96)}),
        case(
            "linear.gemm",
            [h.make_node("Gemm", ["x", "w", "b"], ["y"])],
            lambda s: {"x": drawn(s, 3, 96)},
            weights,
        ),
        case(
            "linear.batched",
            [h.make_node("MatMul", ["x", "z"], ["y"])],
            lambda s: {"x": drawn(s, BATCH, 5, 6), "z": drawn(s + 1, BATCH, 6, 4)},
        ),
    ]


def integer_cases() -> list[Case]:
    """Integers and booleans that come in or go out."""
    table = {"table": drawn(1, 50, WIDTH), "axis": np.asarray([-1], np.int64)}

    def tokens(seed: int) -> Feeds:
        return {"ids": np.random.default_rng(seed).integers(0, 50, (BATCH, QUERIES))}

    return [
        case("integer.embedding", [h.make_node("Gather", ["table", "ids"], ["y"])], tokens, table),
        case(
            "integer.argmax",
            [h.make_node("ArgMax", ["x"], ["y"], axis=-1, keepdims=0)],
            lambda s: {"x": drawn(s, BATCH, WIDTH)},
        ),
        case(
            "boolean.in_and_out",
            [h.make_node("Not", ["x"], ["y"])],
            lambda s: {"x": drawn(s, BATCH, 5) > 0},
        ),
        case(
            "boolean.where",
            [h.make_node("Where", ["c", "x", "z"], ["y"])],
            lambda s: {"c": drawn(s, BATCH, 5) > 0, "x": drawn(s + 1, BATCH, 5), "z": drawn(s + 2, 1, 5)},
        ),
    ]


def refused_cases() -> list[Case]:
    """What one engine has and another has not."""
    return [
        case("refused.determinant", [h.make_node("Det", ["x"], ["y"])], lambda s: {"x": drawn(s, 2, 3, 3)})
    ]


def all_cases() -> list[Case]:
    """Every case."""
    return [
        *attention_cases(),
        *norm_cases(),
        *activation_cases(),
        *rotary_cases(),
        *convolution_cases(),
        *linear_cases(),
        *integer_cases(),
        *refused_cases(),
    ]
