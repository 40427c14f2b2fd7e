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
from edgec.runtime.engine import Engine
from edgec.search.peers import open_file
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
    "x86.axis_linear": ("zoo:cait_xxs24",),
    "x86.gathered_rows": ("zoo:swin_tiny",),
    "decompose.norm_affine": ("zoo:deit_tiny", "zoo:swin_tiny"),
    "x86.separate_projections": ("zoo:deit_tiny", "zoo:swin_tiny"),
    "canonicalize.sink_slice": ("zoo:deit_tiny",),
}
"""The models that each pass is for."""

ENGINES = ("openvino", "ort")
ONE_ENGINE = {
    "decompose.norm_affine": ("openvino",),
    "x86.gathered_rows": ("ort",),
    "x86.separate_projections": ("openvino",),
}
"""Passes that are in the forms of one engine only."""

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
    engines = ONE_ENGINE.get(name, ENGINES)
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
    feeds = {"x": np.random.default_rng(0).normal(size=(1, TOKENS, WIDTH)).astype(np.float32)}
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


def model_of(nodes: str, outputs: str, weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    graph = onnx.parser.parse_graph(f"g (float[1,{TOKENS},{WIDTH}] x) => ({outputs}) {{ {nodes} }}")
    for name, array in weights.items():
        graph.initializer.append(onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 23)], ir_version=10)


def drawn(rows: int, columns: int) -> np.ndarray:
    drawn = np.random.default_rng(rows + columns).normal(size=(rows, columns)) / np.sqrt(rows)
    return drawn.astype(np.float32)


if __name__ == "__main__":
    main()
