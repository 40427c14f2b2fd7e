"""`--tokens auto` on the zoo's trained models: the reduced engine against the same engine without.

    python benchmarks/token_auto.py [--models vit_shapes,minilm] [--precision bf16] [--pictures 2048]

Each model is compiled with `--tokens auto --max-drop 1%`; then the engine it got and the same engine
without reduction are timed in alternating blocks and scored: vit_shapes on pictures that neither the search
nor its look at held-out data has seen, from the 513th of the held-out seed on; minilm on the held-out texts,
and on texts that fill all 128 tokens, joined from them. minilm is also searched for such full texts.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from tables import markdown, publish

from edgec import zoo
from edgec.accuracy import EvaluationData, run_all
from edgec.compiler import Request, compile_graph, load, to_neutral
from edgec.core.graph import Arrays, Graph
from edgec.core.progress import Silent
from edgec.core.timing import measure
from edgec.passes.pipeline import default_pipeline
from edgec.runtime.engine import Engine
from edgec.targets.base import Candidate
from edgec.targets.x86.target import X86
from edgec.token_reduction import built
from edgec.zoo.evaluation import PICTURES, Evaluation
from edgec.zoo.minilm.data import graded_pairs, tokenise
from edgec.zoo.vit_shapes.scenes import HELD_OUT, scenes

MAX_DROP = 0.01

HEADERS = ["model", "searched on", "schedule", "engine", "ms without", "ms", "ratio", "scored on", "score"]


def full_texts(part: str) -> Arrays:
    """Texts of 128 tokens: each passage of a part with the ones behind it."""
    passages = [text for text in graded_pairs(part)[1] if len(text) > 200]  # type: ignore[arg-type]
    joined = [
        " ".join(passages[(at + step) % len(passages)] for step in range(4)) for at in range(len(passages))
    ]
    return tokenise(joined)


def reduced_and_not(graph: Graph, precision: str, folder: Path, **data: Path) -> tuple[dict, Engine, Engine]:
    """The report of a compile, its engine, and the same engine without reduction."""
    request = Request.checked("x86", folder / "reduced.edgec", precision, max_drop=MAX_DROP, tokens="auto")
    bundle = compile_graph(graph, request, **data)
    report = bundle.report()
    target = X86()
    neutral = to_neutral(graph, default_pipeline(), Silent()).graph
    candidate = Candidate(report["engine"], report["precision"], report["form"])
    return report, target.open(bundle.engine_folder), built(target, neutral, candidate, folder / "plain")


def row(
    name: str, searched: str, report: dict, reduced: Engine, plain: Engine, feeds: Arrays
) -> list[object]:
    found = measure({"plain": lambda: plain.run(feeds), "reduced": lambda: reduced.run(feeds)}, blocks=11)
    engine = f"{report['engine']} {report['precision']} ({report['form']})"
    ratio = found["reduced"].ratio_to(found["plain"])
    times = [f"{found[key].p50:.2f}" for key in ("plain", "reduced")]
    return [name, searched, report["tokens"]["name"], engine, *times, f"{ratio:.3f}"]


def outputs(graph: Graph, engine: Engine, inputs: Arrays) -> np.ndarray:
    return run_all(engine.run, graph.inputs, EvaluationData("", inputs, None))


def shapes(precision: str, pictures: int) -> list[list[object]]:
    graph = load("zoo:vit_shapes")
    with tempfile.TemporaryDirectory() as folder:
        report, reduced, plain = reduced_and_not(graph, precision, Path(folder))
        first = row("vit_shapes", "labels, 1 % of accuracy", report, reduced, plain, graph.examples[0])
        inputs, labels = scenes(HELD_OUT, PICTURES, pictures - PICTURES)
        right = [
            float((outputs(graph, engine, {"image": inputs}).argmax(axis=1) == labels).mean())
            for engine in (plain, reduced)
        ]
        for engine in (plain, reduced):
            engine.close()
    scored = f"{len(labels)} pictures unseen by search and look"
    return [[*first, scored, f"{right[0]:.2%} without, {right[1]:.2%} with: {right[0] - right[1]:.2%} less"]]


def sentences(precision: str, *, full: bool) -> list[list[object]]:
    graph = load("zoo:minilm")
    held_out = zoo.evaluation("minilm")
    assert held_out is not None
    whole = full_texts("held_out")
    searched = "texts of 8 to 72 tokens, cosine 0.99"
    rows: list[list[object]] = []
    with tempfile.TemporaryDirectory() as name:
        folder, data = Path(name), {}
        if full:
            searched = "texts of 128 tokens, cosine 0.99"
            for option, part in (("calib", "calibration"), ("eval_data", "held_out")):
                data[option] = folder / f"{part}.npz"
                np.savez(data[option], **full_texts(part))
        report, reduced, plain = reduced_and_not(graph, precision, folder, **data)
        first = row("minilm", searched, report, reduced, plain, graph.examples[0])
        assert graph.run_source is not None
        for scored, inputs in (("held-out texts", held_out.inputs), ("texts of 128 tokens", whole)):
            if full and inputs is not whole:
                continue
            source = run_all(graph.run_source, graph.inputs, EvaluationData("", inputs, None))
            grades = held_out.grades if inputs is held_out.inputs else np.zeros(len(source) // 2)
            texts = Evaluation(inputs, None, "embedding", grades)
            found = texts.score(outputs(graph, reduced, inputs), source)
            said = [f"{key} {found[key]:.4f}" for key in ("cosine", "cosine_min", "ranking")]
            rows.append([*first, f"{len(source)} {scored}", ", ".join(said)])
        for engine in (plain, reduced):
            engine.close()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="vit_shapes,minilm,minilm-full")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--pictures", type=int, default=2048)
    options = parser.parse_args()
    rows: list[list[object]] = []
    for name in options.models.split(","):
        if name == "vit_shapes":
            rows += shapes(options.precision, options.pictures)
        else:
            rows += sentences(options.precision, full=name == "minilm-full")
    kept = f"token_auto_{options.precision}" + ("" if "," in options.models else f"_{options.models}")
    publish(kept, "`--tokens auto --max-drop 1%` against the same engine without", markdown(HEADERS, rows))


if __name__ == "__main__":
    main()
