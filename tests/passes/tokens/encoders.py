"""Small encoders as neutral graphs, and the same computed in numpy with ToMe's own steps."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime

from edgec.passes.decompose import load_passes
from edgec.passes.manager import Pipeline

CHANNELS, HEADS, DEPTH = 12, 2, 6


@dataclasses.dataclass
class Encoder:
    """A transformer over `patches` inputs of 12 channels.

    Attributes:
        patches: tokens that come in.
        learned: learned tokens in front.
        blocks: how many.
        post_norm: norms behind the residual sums instead of before the layers.
        layer_scale: whether each branch is scaled by a learned vector.
        masked: whether there is a padding mask input (1, patches), float, 1 for a real token.
        head: `class` (token 0), `dense` (all tokens), `mean` (of the tokens that came in).
        positions: whether a position embedding is added.
    """

    patches: int = 17
    learned: int = 1
    blocks: int = 3
    post_norm: bool = False
    layer_scale: bool = False
    masked: bool = False
    head: str = "class"
    positions: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        self.length = self.patches + self.learned
        self.weights: dict[str, np.ndarray] = {}

        def draw(name: str, *shape: int, spread: float = 0.4, middle: float = 0.0) -> None:
            self.weights[name] = (middle + spread * rng.normal(size=shape)).astype(np.float32)

        if self.learned:
            draw("learned", 1, self.learned, CHANNELS, spread=1.0)
        if self.positions:
            draw("positions", 1, self.length, CHANNELS)
        for block in range(self.blocks):
            for name, rows, columns in (
                ("q", CHANNELS, CHANNELS),
                ("k", CHANNELS, CHANNELS),
                ("v", CHANNELS, CHANNELS),
                ("o", CHANNELS, CHANNELS),
                ("up", CHANNELS, 2 * CHANNELS),
                ("down", 2 * CHANNELS, CHANNELS),
            ):
                draw(f"{name}{block}", rows, columns)
            for norm in ("a", "b"):
                draw(f"scale_{norm}{block}", CHANNELS, spread=0.1, middle=1.0)
                draw(f"shift_{norm}{block}", CHANNELS, spread=0.1)
                if self.layer_scale:
                    draw(f"gamma_{norm}{block}", CHANNELS, spread=0.1, middle=0.7)

    def model(self) -> ir.Model:
        """The neutral graph."""
        n, c = self.length, CHANNELS
        lines = ["heads4 = Constant <value_ints = [0, 0, 2, 6]> ()"]
        lines[0] = f"heads4 = Constant <value_ints = [1, {n}, {HEADS}, {DEPTH}]> ()"
        lines.append(f"flat3 = Constant <value_ints = [1, {n}, {c}]> ()")
        stream = "patches"
        if self.learned:
            lines.append("sequence = Concat <axis = 1> (learned, patches)")
            stream = "sequence"
        if self.positions:
            lines.append(f"placed = Add ({stream}, positions)")
            stream = "placed"
        mask = ""
        if self.masked:
            lines += [
                "one = Constant <value_float = 1.0> ()",
                "hide = Constant <value_float = -10000.0> ()",
                "axes = Constant <value_ints = [1, 2]> ()",
                "hidden = Sub (one, mask)",
                "hidden4 = Unsqueeze (hidden, axes)",
                "bias = Mul (hidden4, hide)",
            ]
            mask = ", bias"
        for i in range(self.blocks):
            stream = self._block(lines, i, stream, mask)
        lines += self._head(stream)
        inputs = f"float[1, {self.patches}, {c}] patches"
        inputs += f", float[1, {self.patches}] mask" if self.masked else ""
        outputs = {"dense": f"float[1, {n}, {c}]", "class": f"float[1, {c}]", "mean": f"float[1, {c}]"}
        text = (
            '<ir_version: 11, opset_import: ["": 23]>\n'
            f"encoder ({inputs}) => ({outputs[self.head]} result) {{ {' '.join(lines)} }}"
        )
        proto = onnx.parser.parse_model(text)
        for name, array in self.weights.items():
            proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        proto = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
        model = ir.from_proto(proto)
        for node in model.graph:
            node.name = node.outputs[0].name
            node.metadata_props["edgec.source"] = f"layer.{node.name}"
        return model

    def _block(self, lines: list[str], i: int, stream: str, mask: str) -> str:
        def norm(kind: str, value: str) -> str:
            lines.append(
                f"n{kind}{i} = LayerNormalization <axis = -1> ({value}, scale_{kind}{i}, shift_{kind}{i})"
            )
            return f"n{kind}{i}"

        source = stream if self.post_norm else norm("a", stream)
        for name in "qkv":
            lines += [
                f"{name}p{i} = MatMul ({source}, {name}{i})",
                f"{name}h{i} = Reshape ({name}p{i}, heads4)",
                f"{name}t{i} = Transpose <perm = [0, 2, 1, 3]> ({name}h{i})",
            ]
        lines += [
            f"att{i} = Attention (qt{i}, kt{i}, vt{i}{mask})",
            f"back{i} = Transpose <perm = [0, 2, 1, 3]> (att{i})",
            f"join{i} = Reshape (back{i}, flat3)",
            f"proj{i} = MatMul (join{i}, o{i})",
        ]
        branch = f"proj{i}"
        if self.layer_scale:
            lines.append(f"ls_a{i} = Mul ({branch}, gamma_a{i})")
            branch = f"ls_a{i}"
        lines.append(f"sum_a{i} = Add ({stream}, {branch})")
        stream = f"sum_a{i}"
        source = norm("a" if self.post_norm else "b", stream)
        stream = source if self.post_norm else stream
        lines += [
            f"hid{i} = MatMul ({source}, up{i})",
            f"act{i} = Gelu (hid{i})",
            f"mlp{i} = MatMul (act{i}, down{i})",
        ]
        branch = f"mlp{i}"
        if self.layer_scale:
            lines.append(f"ls_b{i} = Mul ({branch}, gamma_b{i})")
            branch = f"ls_b{i}"
        lines.append(f"sum_b{i} = Add ({stream}, {branch})")
        return norm("b", f"sum_b{i}") if self.post_norm else f"sum_b{i}"

    def _head(self, stream: str) -> list[str]:
        if self.head == "dense":
            return [f"result = Identity ({stream})"]
        if self.head == "class":
            return ["zero = Constant <value_int = 0> ()", f"result = Gather <axis = 1> ({stream}, zero)"]
        return [
            f"begin = Constant <value_ints = [{self.learned}]> ()",
            "end = Constant <value_ints = [9223372036854775807]> ()",
            "axis = Constant <value_ints = [1]> ()",
            f"rest = Slice ({stream}, begin, end, axis)",
            "result = ReduceMean <keepdims = 0> (rest, axis)",
        ]

    def feeds(self, seed: int = 1, padding: int = 0) -> dict[str, np.ndarray]:
        """Drawn inputs; the last `padding` tokens are masked."""
        rng = np.random.default_rng(seed)
        feeds = {"patches": rng.normal(size=(1, self.patches, CHANNELS)).astype(np.float32)}
        if self.masked:
            feeds["mask"] = np.ones((1, self.patches), np.float32)
            if padding:
                feeds["mask"][:, -padding:] = 0
        return feeds

    def with_tome(
        self, patches: np.ndarray, rates: dict[int, int], sizes: np.ndarray | None = None
    ) -> np.ndarray:
        """The encoder with ToMe between attention and MLP, in float64, after the paper's own code.

        Returns the class token's or the mean's value; a mean weighs by size, as un-merging does.
        """
        w = {name: array.astype(np.float64) for name, array in self.weights.items()}
        x = patches[0].astype(np.float64)
        if self.learned:
            x = np.concatenate([w["learned"][0], x])
        if self.positions:
            x = x + w["positions"][0]
        size = np.ones((len(x), 1)) if sizes is None else sizes.astype(np.float64)

        def norm(value: np.ndarray, kind: str) -> np.ndarray:
            centred = value - value.mean(-1, keepdims=True)
            unit = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
            return unit * w[f"scale_{kind}"] + w[f"shift_{kind}"]

        for i in range(self.blocks):
            source = x if self.post_norm else norm(x, f"a{i}")
            q, k, v = (
                (source @ w[f"{name}{i}"]).reshape(len(x), HEADS, DEPTH).transpose(1, 0, 2) for name in "qkv"
            )
            logits = q @ k.transpose(0, 2, 1) / np.sqrt(DEPTH) + np.log(np.maximum(size, 1e-20)).T
            logits -= logits.max(-1, keepdims=True)
            weights = np.exp(logits)
            weights /= weights.sum(-1, keepdims=True)
            branch = (weights @ v).transpose(1, 0, 2).reshape(len(x), CHANNELS) @ w[f"o{i}"]
            x = x + branch * w.get(f"gamma_a{i}", 1.0)
            if self.post_norm:
                x = norm(x, f"a{i}")
            if rates.get(i):
                x, size = _merge(x, k.mean(0), size, rates[i], self.learned)
            source = x if self.post_norm else norm(x, f"b{i}")
            hidden = source @ w[f"up{i}"]
            erf = np.vectorize(__import__("math").erf)
            branch = hidden * 0.5 * (1 + erf(hidden / np.sqrt(2))) @ w[f"down{i}"]
            x = x + branch * w.get(f"gamma_b{i}", 1.0)
            if self.post_norm:
                x = norm(x, f"b{i}")
        if self.head == "class":
            return x[None, 0]
        rest, weight = x[self.learned :], size[self.learned :]
        return ((rest * weight).sum(0) / weight.sum())[None]


def _merge(
    x: np.ndarray, metric: np.ndarray, size: np.ndarray, r: int, guarded: int
) -> tuple[np.ndarray, np.ndarray]:
    metric = metric / np.linalg.norm(metric, axis=-1, keepdims=True)
    free = np.arange(guarded, len(x))
    a, b = free[0::2], free[1::2]
    scores = metric[a] @ metric[b].T
    best, partner = scores.max(-1), scores.argmax(-1)
    best = np.where(size[a, 0] > 0, best, np.inf)
    gone = np.argsort(-best, kind="stable")[:r]
    total, mass = x * size, size.copy()
    for source, target in zip(a[gone], b[partner[gone]], strict=True):
        total[target] += total[source]
        mass[target] += mass[source]
    keep = np.setdiff1d(np.arange(len(x)), a[gone])
    return total[keep] / np.maximum(mass[keep], 1e-30), mass[keep]


def run(model: ir.Model, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """The first output in ONNX Runtime, ops of edgec's own domain by their bodies."""
    load_passes()
    copy = model.clone()
    Pipeline.named(["decompose.plugins", "decompose.attention"]).run(copy)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        ir.to_proto(copy).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)[0]
