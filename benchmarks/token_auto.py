"""`--tokens auto` on the zoo's trained models: the reduced engine against the same engine without.

    python benchmarks/token_auto.py [--models vit_shapes,minilm] [--precision bf16] [--pictures 2048]

vit_shapes is compiled with `--tokens auto --max-drop 1%`; the engine it got and the same engine without
reduction are timed in alternating blocks and scored on pictures that neither the search nor its look at
held-out data has seen, from the 513th of the held-out seed on.

minilm is searched in the form that computes with every token, padding or not: an engine that skips padding
(`benchmarks/padding_free.py`) gains more on short texts and loses nothing, so a compile takes that. It is
searched on the calibration texts and on texts that fill all 128 tokens, joined from them; each result is
scored on held-out texts of both kinds, and the next taken where it does not keep 0.99 on its own kind.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from pathlib import Path
from typing import Literal

import numpy as np
from tables import markdown, publish

from edgec.compiler import compile_graph, load, to_neutral
from edgec.core.errors import JobError
from edgec.core.graph import Arrays, Graph
from edgec.core.progress import Silent
from edgec.core.timing import measure
from edgec.judging.accuracy import EvaluationData, run_all
from edgec.judging.budget import Judge
from edgec.passes.pipeline import default_pipeline
from edgec.request import Request
from edgec.runtime.engine import Engine
from edgec.search.axes.tokens import Tokens
from edgec.search.bench import Bench
from edgec.search.goal import Goal
from edgec.search.loop import search
from edgec.search.plans import PlanTrials, apply
from edgec.targets.base import Candidate
from edgec.targets.x86.target import X86
from edgec.zoo.evaluation import PICTURES, Evaluation
from edgec.zoo.minilm.data import graded_pairs, tokenise
from edgec.zoo.vit_shapes.scenes import HELD_OUT, scenes

MAX_DROP = 0.01

PARTS: tuple[Literal["calibration", "held_out"], ...] = ("calibration", "held_out")

HEADERS = ["model", "searched on", "schedule", "engine", "ms without", "ms", "ratio", "scored on", "score"]


def full_texts(part: Literal["calibration", "held_out"]) -> Arrays:
    """Texts of 128 tokens: each passage of a part with the ones behind it."""
    passages = [text for text in graded_pairs(part)[1] if len(text) > 200]
    joined = [
        " ".join(passages[(at + step) % len(passages)] for step in range(4)) for at in range(len(passages))
    ]
    return tokenise(joined)


def reduced_and_not(graph: Graph, precision: str, folder: Path) -> tuple[dict, Engine, Engine]:
    """The report of a compile, its engine, and the same engine without reduction."""
    request = Request.checked("x86", folder / "reduced.edgec", precision, max_drop=MAX_DROP, tokens="auto")
    bundle = compile_graph(graph, request)
    report = bundle.report()
    target = X86()
    neutral = to_neutral(graph, default_pipeline(), Silent()).graph
    candidate = Candidate(report["engine"], report["precision"], report["form"])
    return report, target.open(bundle.engine_folder), built(target, neutral, candidate, folder / "plain")


def built(target: X86, graph: Graph, candidate: Candidate, folder: Path) -> Engine:
    folder.mkdir()
    target.build(target.lower(graph, candidate), candidate, folder)
    return target.open(folder)


def row(
    name: str, searched: str, report: dict, reduced: Engine, plain: Engine, feeds: Arrays
) -> list[object]:
    engine = f"{report['engine']} {report['precision']} ({report['form']})"
    return [name, searched, report["tokens"]["name"], engine, *timed(plain, reduced, feeds)]


def timed(plain: Engine, reduced: Engine, feeds: Arrays) -> list[object]:
    """Milliseconds without and with reduction, and their ratio."""
    found = measure({"plain": lambda: plain.run(feeds), "reduced": lambda: reduced.run(feeds)}, blocks=11)
    times = [f"{found[key].p50:.2f}" for key in ("plain", "reduced")]
    return [*times, f"{found['reduced'].ratio_to(found['plain']):.3f}"]


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


def sentences(precision: str) -> list[list[object]]:
    """Short texts and full ones, each searched for, in the one form that computes with every token."""
    target, candidate = X86("openvino"), Candidate("openvino", precision, "decomposed")
    graph = load("zoo:minilm")
    assert graph.run_source is not None
    neutral = to_neutral(graph, default_pipeline(), Silent()).graph
    texts = {part: tokenise(graded_pairs(part)[1]) for part in PARTS}
    wholes = {part: full_texts(part) for part in PARTS}
    rows: list[list[object]] = []
    for searched, data in (("texts of 8 to 72 tokens", texts), ("texts of 128 tokens", wholes)):
        judge = Judge(graph, EvaluationData(searched, data["calibration"], None))
        with tempfile.TemporaryDirectory() as name:
            folders = (Path(name) / f"engine-{count}" for count in itertools.count())
            axis, goal = Tokens(neutral, Silent()), Goal(max_drop=MAX_DROP)
            (scratch := Path(name) / "search").mkdir()
            bench = Bench(target, neutral.examples[0], scratch, Silent(), judge)
            trials = PlanTrials(bench, neutral, [axis], candidate, Silent())
            plain = built(target, neutral, candidate, next(folders))
            held_out = Judge(graph, EvaluationData(searched, data["held_out"], None))
            looks = 0
            searching = search([axis], trials, [goal])
            try:
                wanted = searching.wanted(goal)
            except JobError as error:
                plain.close()
                rows.append(["minilm", searched, "none", candidate.name, "", "", "", "", str(error)])
                continue
            for point in wanted:
                looks += 1
                graph_of_plan = apply(neutral, [axis], point.plan).graph
                reduced = built(target, graph_of_plan, candidate, next(folders))
                if held_out.scores(reduced.run).drop <= MAX_DROP:
                    break
                reduced.close()
            feeds = {key: array[:1] for key, array in data["held_out"].items()}
            found = timed(plain, reduced, feeds)
            for scored, inputs in (("held-out texts", texts["held_out"]), ("full texts", wholes["held_out"])):
                source = run_all(graph.run_source, graph.inputs, EvaluationData("", inputs, None))
                grades = np.arange(len(source) // 2)
                score = Evaluation(inputs, None, "embedding", grades).score(
                    outputs(graph, reduced, inputs), source
                )
                said = [f"{key} {score[key]:.4f}" for key in ("cosine", "cosine_min", "ranking")]
                look = f"{searched}, cosine 0.99; {looks} at held-out ones"
                first = ["minilm", look, point.plan.name, candidate.name, *found]
                rows.append([*first, f"{len(source)} {scored}", ", ".join(said)])
            for engine in (plain, reduced):
                engine.close()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="vit_shapes,minilm")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--pictures", type=int, default=2048)
    options = parser.parse_args()
    rows: list[list[object]] = []
    for name in options.models.split(","):
        if name == "vit_shapes":
            rows += shapes(options.precision, options.pictures)
        else:
            rows += sentences(options.precision)
    kept = f"token_auto_{options.precision}" + ("" if "," in options.models else f"_{options.models}")
    publish(kept, "`--tokens auto --max-drop 1%` against the same engine without", markdown(HEADERS, rows))


if __name__ == "__main__":
    main()
