"""What each graph pass brings on the models it serves, and what was tried and brought nothing.

    python benchmarks/x86_passes.py [--passes NAME,…] [--models NAME,…]

Each pass is switched off alone; the two engines of the same form run in alternating blocks in one process,
in fp32. Times are the lower fifth of all calls, which other load on the machine disturbs least; beside their
ratio stands the median of the ratios of neighbouring blocks. The second table is of small graphs that stand
for rewrites that were not built, or built and taken out again.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import onnx.parser
from tables import markdown, publish

from edgec.compiler import load
from edgec.core.errors import EdgecError
from edgec.core.graph import Graph
from edgec.core.timing import Latency, measure
from edgec.passes.infra import registered
from edgec.passes.pipeline import default_pipeline
from edgec.peers import open_file
from edgec.runtime.engine import Engine
from edgec.targets.base import Candidate
from edgec.targets.x86.forms import DECOMPOSED, lowered
from edgec.targets.x86.target import X86

BRANCHED = tuple(
    f"timm:{name}" for name in ("repvgg_a0", "mobileone_s0", "fastvit_t8", "repvit_m0_9", "repghostnet_050")
)
PARALLEL = ("timm:vit_small_patch16_18x2_224",)
SERVED = {
    "fuse.conv_branches": BRANCHED,
    "fuse.stacked_sum": PARALLEL,
    "x86.shared_norm": PARALLEL,
    "x86.axis_linear": ("zoo:cait_xxs24",),
    "decompose.norm_affine": ("zoo:deit_tiny", "zoo:swin_tiny"),
    "x86.separate_projections": ("zoo:deit_tiny", "zoo:swin_tiny"),
    "canonicalize.sink_slice": ("zoo:deit_tiny",),
}
"""The models that each pass is for."""

ENGINES = ("openvino", "ort")
OPENVINO_ONLY = dict.fromkeys(
    ("decompose.norm_affine", "x86.separate_projections", "x86.shared_norm"), ("openvino",)
)
LOWER_FIFTH = 20
TOKENS, WIDTH = 197, 384
DEPTH = 12


@dataclasses.dataclass(frozen=True)
class Built:
    """One engine, and how many nodes its lowered graph has."""

    engine: Engine
    nodes: int


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--passes", default=",".join(SERVED))
    parser.add_argument("--models", default="")
    asked = parser.parse_args()
    passes = asked.passes.split(",")
    wanted = asked.models.split(",") if asked.models else None
    rows, graphs = [], functools.cache(_loaded)
    for name in passes:
        for model in SERVED[name]:
            if wanted is None or model in wanted:
                rows += measured(name, model, graphs(model))
    headers = ["pass", "model", "engine", "nodes without", "nodes with", "without, ms", "with, ms"]
    headers += ["with / without", "by blocks", "outputs differ by"]
    body = markdown(headers, rows)
    if passes == list(SERVED) and wanted is None:
        body += "\n\n## Tried and left out\n\n" + markdown(
            ["rewrite", "engine", "as it is, ms", "rewritten, ms", "rewritten / as it is", "by blocks"],
            [row for title, before, after in left_out() for row in compared(title, before, after)],
        )
    publish("x86_passes", "What each graph pass brings on x86", body)


def _loaded(model: str) -> Graph:
    return load(model)


def measured(name: str, model: str, graph: Graph) -> list[list[object]]:
    """One line an engine that the pass changes."""
    engines = OPENVINO_ONLY.get(name, ENGINES)
    rows: list[list[object]] = []
    feeds = graph.examples[0]
    for engine in engines:
        with contextlib.ExitStack() as stack:
            without = stack.enter_context(built(graph, engine, off=name))
            with_it = stack.enter_context(built(graph, engine, off=None))
            found = timed(
                {
                    "without": functools.partial(without.engine.run, feeds),
                    "with": functools.partial(with_it.engine.run, feeds),
                }
            )
            row = [name, model, engine, without.nodes, with_it.nodes, *_figures(found, "without", "with")]
            rows.append([*row, _apart(without.engine.run(feeds), with_it.engine.run(feeds))])
            print(rows[-1], flush=True)
    return rows


@contextlib.contextmanager
def built(graph: Graph, engine: str, off: str | None) -> Iterator[Built]:
    """A model's engine with one pass switched off."""
    target, candidate = X86(engine), Candidate(engine, "fp32", DECOMPOSED)
    pipeline, neutral = default_pipeline(), graph.clone()
    # A form's passes are registered when something is first lowered.
    lowered(graph, candidate, frozenset())
    with tempfile.TemporaryDirectory() as folder:
        with mock.patch.object(registered()[off], "apply") if off else contextlib.nullcontext():
            pipeline.run(neutral.model)
            form = target.lower(neutral, candidate)
        target.build(form, candidate, Path(folder))
        opened = target.open(Path(folder))
        try:
            yield Built(opened, form.model.graph.num_nodes())
        finally:
            opened.close()


def _apart(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    """The largest difference over the output's spread."""
    return max(float(np.abs(one[name] - other[name]).max() / max(1e-30, one[name].std())) for name in one)


def timed(calls: dict[str, Callable[[], object]]) -> dict[str, Latency]:
    return measure(calls, blocks=15, block_seconds=0.3)


def _figures(found: dict[str, Latency], before: str, after: str) -> list[float]:
    fifth = {name: float(np.percentile(latency.samples, LOWER_FIFTH)) for name, latency in found.items()}
    ratio = fifth[after] / fifth[before]
    return [fifth[before], fifth[after], ratio, found[after].ratio_to(found[before])]


def compared(title: str, before: onnx.ModelProto, after: onnx.ModelProto) -> list[list[object]]:
    """A rewrite in both engines, as they open the graphs by themselves."""
    rows: list[list[object]] = []
    shape = [size.dim_value for size in before.graph.input[0].type.tensor_type.shape.dim]
    feeds = {"x": np.random.default_rng(0).normal(size=shape).astype(np.float32)}
    for engine in ENGINES:
        with tempfile.TemporaryDirectory() as folder:
            calls: dict[str, Callable[[], object]] = {}
            for label, model in (("before", before), ("after", after)):
                path = Path(folder) / f"{label}.onnx"
                onnx.save(model, path)
                try:
                    calls[label] = functools.partial(open_file(engine, "fp32", path).run, feeds)
                except EdgecError as error:
                    print(f"{title}: {error}")
            if len(calls) == 2:
                rows.append([title, engine, *_figures(timed(calls), "before", "after")])
                print(rows[-1], flush=True)
    return rows


def left_out() -> list[tuple[str, onnx.ModelProto, onnx.ModelProto]]:
    """What was tried: a title, the graph as it is, and as it would be."""
    return [
        (
            f"pre-LN to pre-RMSNorm, {DEPTH} layers of {TOKENS}×{WIDTH}",
            norm_chain("LayerNormalization", ", zero"),
            norm_chain("RMSNormalization", ""),
        ),
        ("fc1 joined with q, k, v of a parallel block", *parallel_block()),
        ("two parallel MLPs as one of twice the width", *parallel_mlps()),
        ("shift and partition of windows as one Gather of rows", *shifted_windows()),
    ]


def norm_chain(op_type: str, zero: str) -> onnx.ModelProto:
    """Residual layers with a norm in front of two products."""
    lines = []
    for i in range(DEPTH):
        lines += [
            f"n{i} = {op_type}<axis=-1>(x{i or ''}, one{zero})",
            f"m{i} = MatMul(n{i}, w)\n r{i} = Relu(m{i})\n o{i} = MatMul(r{i}, v)",
            f"x{i + 1} = Add(x{i or ''}, o{i})",
        ]
    weights = {"w": drawn(WIDTH, WIDTH), "v": drawn(WIDTH, WIDTH), "one": np.ones(WIDTH, np.float32)}
    if zero:
        weights["zero"] = np.zeros(WIDTH, np.float32)
    return model_of("\n".join(lines) + f"\n y = Relu(x{DEPTH})", "y", weights)


def parallel_block() -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The products of queries, keys, values and the MLP: packed and fc1 apart, and all in one."""
    whole = drawn(WIDTH, 7 * WIDTH)
    outputs = "y0, y1, y2, y3"
    gelu = "\n".join(f"y{i} = Gelu(a{i})" for i in range(4))
    apart = f"p = MatMul(x, w)\n a0, a1, a2 = Split<axis=-1, num_outputs=3>(p)\n a3 = MatMul(x, v)\n{gelu}"
    joined = f"p = MatMul(x, w)\n a0, a1, a2, a3 = Split<axis=-1>(p, sizes)\n{gelu}"
    sizes = np.array([WIDTH, WIDTH, WIDTH, 4 * WIDTH], np.int64)
    return (
        model_of(apart, outputs, {"w": whole[:, : 3 * WIDTH], "v": whole[:, 3 * WIDTH :]}),
        model_of(joined, outputs, {"w": whole, "sizes": sizes}),
    )


def parallel_mlps() -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Two MLPs of one input, summed; and the same as one."""
    w, v = drawn(WIDTH, 8 * WIDTH), drawn(8 * WIDTH, WIDTH)
    half = 4 * WIDTH
    lines = [f"h{i} = MatMul(x, w{i})\n g{i} = Gelu(h{i})\n o{i} = MatMul(g{i}, v{i})" for i in range(2)]
    two = {"w0": w[:, :half], "w1": w[:, half:], "v0": v[:half], "v1": v[half:]}
    return (
        model_of("\n".join(lines) + "\n y = Add(o0, o1)", "y", two),
        model_of("h = MatMul(x, w)\n g = Gelu(h)\n y = MatMul(g, v)", "y", {"w": w, "v": v}),
    )


def shifted_windows() -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Swin's shift and partition in front of a product, and both back behind it, in its first stage."""
    side, window, shift, width = 56, 7, 3, 96
    count = side // window
    rows = np.arange(side * side).reshape(side, side)
    there = np.roll(rows, (-shift, -shift), (0, 1)).reshape(count, window, count, window)
    there = there.transpose(0, 2, 1, 3).reshape(-1)
    weights = {
        "w": drawn(width, width),
        "one": np.ones(width, np.float32),
        "zero": np.zeros(width, np.float32),
    }
    shapes = {
        "picture": [1, side, side, width],
        "grid": [1, count, window, count, window, width],
        "apart": [1, count, count, window, window, width],
        "rows": [1, side * side, width],
        "ahead": [shift, side - shift],
        "behind": [side - shift, shift],
    }
    norm = "n = LayerNormalization<axis=-1>(x, one, zero)\n"
    turn = "Transpose<perm=[0,1,3,2,4,5]>"
    plain = (
        f"{norm} p = Reshape(n, picture)\n a, b = Split<axis=1>(p, ahead)\n c = Concat<axis=1>(b, a)\n"
        "d, e = Split<axis=2>(c, ahead)\n f = Concat<axis=2>(e, d)\n"
        f"h = Reshape(f, grid)\n i = {turn}(h)\n j = Reshape(i, rows)\n k = MatMul(j, w)\n r = Gelu(k)\n"
        f"l = Reshape(r, apart)\n m = {turn}(l)\n o = Reshape(m, picture)\n"
        "q, s = Split<axis=1>(o, behind)\n t = Concat<axis=1>(s, q)\n u, v = Split<axis=2>(t, behind)\n"
        "z = Concat<axis=2>(v, u)\n zz = Reshape(z, rows)\n y = Add(x, zz)"
    )
    gathered = (
        f"{norm} j = Gather<axis=1>(n, there)\n k = MatMul(j, w)\n r = Gelu(k)\n"
        "z = Gather<axis=1>(r, back)\n y = Add(x, z)"
    )
    size = f"1,{side * side},{width}"
    held = {name: np.array(shape, np.int64) for name, shape in shapes.items()}
    return (
        model_of(plain, "y", {**weights, **held}, size),
        model_of(gathered, "y", {**weights, "there": there, "back": np.argsort(there)}, size),
    )


def model_of(
    nodes: str, outputs: str, weights: dict[str, np.ndarray], size: str = f"1,{TOKENS},{WIDTH}"
) -> onnx.ModelProto:
    graph = onnx.parser.parse_graph(f"g (float[{size}] x) => ({outputs}) {{ {nodes} }}")
    for name, array in weights.items():
        graph.initializer.append(onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 23)], ir_version=10)


def drawn(rows: int, columns: int) -> np.ndarray:
    drawn = np.random.default_rng(rows + columns).normal(size=(rows, columns)) / np.sqrt(rows)
    return drawn.astype(np.float32)


if __name__ == "__main__":
    main()
