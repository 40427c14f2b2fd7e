"""DeiT-T as a Core ML package: what it differs by from torch, its fused attention, its time to convert.

    python benchmarks/coreml_deit.py

Each line is one package, saved and read back. `convert` is lowering, coremltools' passes and the writing of
the package, for the neutral graph; exporting from torch is not in it. Differences are the largest over the
samples, absolute; the outputs' standard deviation is printed beside them.
"""

from __future__ import annotations

import collections
import dataclasses
import tempfile
import time
from pathlib import Path

import numpy as np
from tables import markdown, publish

from edgec.compiler import load, to_neutral
from edgec.core.graph import Graph
from edgec.core.numerics import compare
from edgec.core.progress import Silent
from edgec.passes.pipeline import default_pipeline
from edgec.targets.coreml.compression import package_bytes
from edgec.targets.coreml.target import MODEL, CoreML

MODEL_NAME = "timm:deit_tiny_patch16_224"

CASES = (
    ("ios18:tensor", "fp32"),
    ("ios18:tensor", "fp16"),
    ("ios16:tensor", "fp32"),
    ("ios16:tensor", "fp16"),
    ("ios18", "fp32"),
    ("ios18", "fp16"),
)


@dataclasses.dataclass(frozen=True)
class Line:
    """One package."""

    target: str
    precision: str
    max_abs: float
    spread: float
    sdpa: int
    transposes: int
    ops: int
    megabytes: float
    seconds: float

    def row(self) -> list[object]:
        """The line of the table."""
        return [
            f"coreml:{self.target}",
            self.precision,
            f"{self.max_abs:.2e}",
            f"{self.spread:.2f}",
            self.sdpa,
            self.transposes,
            self.ops,
            f"{self.megabytes:.1f}",
            f"{self.seconds:.1f}",
        ]


def measured(graph: Graph, target_words: str, precision: str) -> Line:
    """Build one package, read it back and compare."""
    target = CoreML(target_words)
    prepared = target.prepared(graph)
    neutral = to_neutral(prepared, default_pipeline(), Silent()).graph
    [candidate] = target.candidates(neutral, precision)
    lowered = target.lower(neutral, candidate)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        started = time.perf_counter()
        target.build(lowered, candidate, folder)
        seconds = time.perf_counter() - started
        engine = target.open(folder)
        counts = collections.Counter(engine.interpreter.op_types)
        difference = compare(neutral.references, [engine.run(feeds) for feeds in neutral.examples])
        spread = float(np.std(next(iter(neutral.references[0].values()))))
        return Line(
            target_words,
            precision,
            difference.max_abs,
            spread,
            counts["scaled_dot_product_attention"],
            counts["transpose"],
            sum(counts.values()),
            package_bytes(folder / MODEL) / 1e6,
            seconds,
        )


def main() -> None:
    """Print the table and keep it under results/."""
    graph = load(MODEL_NAME, seed=0)
    headers = (
        "target",
        "precision",
        "largest difference",
        "outputs' std",
        "sdpa",
        "transposes",
        "ops",
        "MB",
        "convert and save, s",
    )
    rows = [measured(graph, words, precision).row() for words, precision in CASES]
    told = f"`{MODEL_NAME}`, weights {graph.source.weights}, {len(graph.examples)} samples against torch."
    told += " Times are one run each; other jobs on the machine lengthen them."
    publish("coreml_deit", "DeiT-T on Core ML", f"{told}\n\n{markdown(headers, rows)}")


if __name__ == "__main__":
    main()
