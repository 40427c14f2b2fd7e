"""The driver: from a source to a bundle, in one function that reads from top to bottom."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec import amounts
from edgec.core import bundle as bundles
from edgec.core.bundle import Bundle, InputsOutputs
from edgec.core.errors import JobError, NumericsError, RequestError
from edgec.core.graph import Graph
from edgec.core.json_file import read_object
from edgec.core.progress import Progress, Silent
from edgec.decoders import check_decoder_request, decoder_loader, greedy_of
from edgec.judging import accuracy
from edgec.judging import budget as budgets
from edgec.judging.bisection import first_bad_pass
from edgec.judging.budget import Budget
from edgec.judging.decisions import with_ties
from edgec.judging.gates import GateResult, check_neutral
from edgec.judging.padding import padding_report, typical_first
from edgec.judging.runtime_warnings import runtime_warnings
from edgec.passes.manager import PassReport, Pipeline
from edgec.report.assemble import manifest_of, report_of, write_report
from edgec.request import Request
from edgec.sample_data import with_calibration_samples
from edgec.search.axes.table import axes_of
from edgec.search.branch_latency import branch_report
from edgec.search.choice import choose
from edgec.search.deadline import Deadline
from edgec.search.goal import Goal
from edgec.search.held_out import HeldOut
from edgec.search.reduction import agreement, reduce_as_named, reduce_by_search
from edgec.search.shipping import Choose, Reduction
from edgec.search.trials import Choice
from edgec.targets.base import Annotates, Decodes, PreparesGraphs, Ships, Target

if TYPE_CHECKING:
    import torch

LEAST_SEARCH = 0.25
"""Share of the search's time that the choice of an engine has at least, however late it begins."""


@dataclasses.dataclass(frozen=True)
class Neutral:
    """A source's neutral graph and how it came about.

    Attributes:
        graph: the graph after all passes.
        reports: what each pass did.
        gate: its fp32 gate against the source.
    """

    graph: Graph
    reports: list[PassReport]
    gate: GateResult


_STAGES = (
    "reading the model",
    "rewriting its graph",
    "building and measuring engines",
    "timing layers and judging",
    "writing the bundle",
)


def _enter(progress: Progress, stage: str, seconds: float | None = None) -> None:
    progress.stage(_STAGES.index(stage) + 1, len(_STAGES), stage, seconds)


def compile(
    model: str | torch.nn.Module,
    *,
    target: str = "x86",
    output: str | Path | None = None,
    precision: str = "auto",
    latency: float | str | None = None,
    max_drop: float | str | None = None,
    eval_data: str | Path | None = None,
    calib: str | Path | None = None,
    tokens: str = "off",
    slim: str = "off",
    search_time: float | str | None = None,
    example_inputs: Sequence[Any] | Mapping[str, Any] | None = None,
    example: str | Path | None = None,
    inputs: Sequence[str] = (),
    batch: int | None = None,
    passes: Sequence[str] = (),
    seed: int = 0,
    progress: Progress | None = None,
) -> Bundle:
    """Compile a model for a target and write its bundle.

    Args:
        model: `file.onnx`, `file.py:function`, `zoo:NAME`, `timm:NAME`, `hf:DIR`, or a torch module.
        target: `x86`, or one engine of it: `x86:ort`, `x86:openvino`.
        output: the bundle's folder; `NAME.TARGET.edgec` in the current folder where not given.
        precision: one of `PRECISIONS`.
        latency: the largest median latency to accept, in milliseconds, or in words: `5ms`.
        max_drop: the largest drop of the evaluation's score to accept, as a fraction, or in words: `1%`.
        eval_data: an npz file with the model's inputs and `labels`; a zoo model brings its own.
        calib: an npz file with inputs that searches and calibration may look at, with or without `labels`.
        tokens: `off`, `auto`, or a schedule: `r=13`, `keep=0.7`, or the name of a point of the frontier.
        slim: `off`, `auto`, or what to keep of the network's units: `mlp=0.5`, or such a name.
        search_time: how long all searches together may take, in seconds, or in words: `10m`.
        example_inputs: what a torch module is called with; needed for one, refused otherwise.
        example: an npz file of real inputs by name, which come first among the samples; of a torch module
            without `example_inputs` also what it is called with.
        inputs: `NAME:SHAPE:DTYPE` for inputs whose shape the model leaves open.
        batch: batch size.
        passes: edits of the pipeline, `+NAME` or `-NAME`.
        seed: seed of everything that is drawn.
        progress: told each step.

    Returns:
        the bundle, opened.

    Raises:
        EdgecError: what is wrong, where, and what to do; nothing was written.
    """
    progress = progress or Silent()
    request = Request.checked(
        target, output, precision, latency, max_drop, passes, seed, tokens, slim, search_time
    )
    _enter(progress, "reading the model")
    load_decoder = decoder_loader(model) if isinstance(request.target, Decodes) else None
    if load_decoder is not None:
        given = {"--example": example, "--input": inputs, "--batch": batch}
        check_decoder_request(request, {**given, "--eval-data": eval_data, "--calib": calib})
        graph = load_decoder(str(model).removeprefix("hf:"), seed=seed, progress=progress)
    else:
        graph = load(
            model, example_inputs, example=example, inputs=inputs, batch=batch, seed=seed, progress=progress
        )
    return compile_graph(graph, request, eval_data=eval_data, calib=calib, progress=progress)


def compile_graph(
    graph: Graph,
    request: Request,
    *,
    eval_data: str | Path | None = None,
    calib: str | Path | None = None,
    progress: Progress | None = None,
) -> Bundle:
    """Compile a loaded graph; the rest is as `compile`.

    Raises:
        EdgecError: what is wrong, where, and what to do; nothing was written.
    """
    progress = progress or Silent()
    target = request.target
    folder = request.output or _default_folder(graph, target)
    bundles.check_writable(folder)
    lossy = request.is_lossy and graph.decoder is None
    evaluation = accuracy.evaluation_data(graph, eval_data, None if lossy else budgets.PLAIN_SAMPLES)
    enough = budgets.SEARCH_SAMPLES if lossy else budgets.CALIBRATION_SAMPLES
    if "slim" in request.takes_away:
        # One part of them is fitted to.
        enough = enough * budgets.FITTED_EVERY // (budgets.FITTED_EVERY - 1)
    calibration = budgets.calibration_data(graph, calib, enough)
    budget = None
    if lossy:
        budget = budgets.budget_of(graph, evaluation, calibration, request.max_drop)
    seen = calibration or (budget.search.data if budget else None)
    if seen is not None:
        feeds = budgets.calibration_feeds(graph, seen)
        graph = dataclasses.replace(graph, calibration=feeds, ranges_from=f"calibration data {seen.name}")
    if calib is not None:
        graph = with_calibration_samples(graph, calib)

    if isinstance(target, PreparesGraphs):
        graph = target.prepared(graph)
    graph = with_ties(graph)
    if "auto" in request.takes_away.values() and budget is not None:
        graph = typical_first(graph, budget.search.data)
    _enter(progress, "rewriting its graph")
    neutral = to_neutral(graph, request.pipeline, progress)
    if graph.decoder is not None:
        encoder = graph.decoder.encoder
        if encoder is not None:
            encoder = to_neutral(encoder, request.pipeline, progress).graph
        graph = graph.by_generations(encoder)
        neutral = dataclasses.replace(neutral, graph=neutral.graph.by_generations(encoder))
    is_searched = bool(request.takes_away) or request.max_drop is not None
    _enter(progress, "building and measuring engines", request.search_seconds if is_searched else None)
    with bundles.writing(folder, needed=_needed_bytes(neutral.graph), note=progress.note) as scratch:
        reduction = None
        if request.takes_away:
            reduction = _reduce(request, neutral.graph, budget, scratch, progress)
            choice = reduction.choice
        else:
            held_out = HeldOut(budget, target, progress, is_gated=request.is_gated)
            deadline = Deadline(request.search_seconds)
            choose_engine = _engine_choice(request, budget, progress, held_out)
            choice = choose_engine(neutral.graph, scratch, deadline, None)
        choice.chosen.folder.rename(scratch / bundles.ENGINE)
        _check_latency(choice, request.latency)
        engine = target.open(scratch / bundles.ENGINE)
        try:
            _enter(progress, "timing layers and judging")
            branches = branch_report(graph, engine.run if target.runs_here else None, progress)
            progress.step("timing layers")
            layers = target.profile(engine, graph.examples[0])
            progress.step("evaluating")
            greedy = None
            if graph.decoder is not None:
                greedy = greedy_of(graph, engine.run, choice.chosen, request.max_drop)
            scores = choice.chosen.held_out
            if scores is None:
                scores = budgets.evaluate(graph, engine.run, evaluation)
            if reduction is not None:
                judged = None if budget is None else budget.held_out.data
                found = {
                    "agreement": agreement(graph, engine),
                    "padding": padding_report(graph, engine, judged),
                }
                for section in reduction.sections.values():
                    section |= found
        finally:
            engine.close()
        _enter(progress, "writing the bundle")
        shipped = graph if reduction is None else reduction.reduced.graph
        expected = shipped.expected
        if choice.chosen.gates[-1].rounded_inputs:
            expected = shipped.expected_of_rounded(choice.chosen.candidate.precision) or expected
        bundles.write_samples(scratch, graph.examples, expected)
        io = InputsOutputs(graph.inputs, graph.outputs, graph.preprocessing, graph.labels)
        bundles.write_json(scratch / bundles.IO, io.to_json())
        if isinstance(target, Ships):
            target.ship(scratch)
        shipped = neutral.graph if reduction is None else reduction.reduced.graph
        candidate = choice.chosen.candidate
        findings = runtime_warnings(
            scratch / bundles.ENGINE, shipped.model, candidate.engine, candidate.precision
        )
        report = report_of(
            graph,
            neutral,
            choice,
            request,
            findings=findings,
            scores=scores,
            layers=[dataclasses.asdict(layer) for layer in layers],
            reduction=reduction,
            branches=branches,
            greedy=greedy,
        )
        if isinstance(target, Annotates):
            target.annotate(report, scratch)
        write_report(scratch, report)
        bundles.seal(scratch, manifest_of(report, graph))
    return Bundle.open(folder, check=False)


def _default_folder(graph: Graph, target: Target) -> Path:
    """Where the bundle goes when nothing is said; a bundle of another model is not written over.

    Raises:
        RequestError: there is one.
    """
    folder = Path(f"{graph.source.name}.{target.name}.edgec")
    if not (folder / bundles.MANIFEST).is_file():
        return folder
    try:
        there = read_object(folder / bundles.MANIFEST)["model"]
        is_another = graph.source.spec != there["spec"] and graph.source.sha256 != there["sha256"]
    except (OSError, ValueError, LookupError, TypeError):
        return folder
    if is_another:
        raise RequestError(
            f"holds the bundle of another model, {there['spec']}",
            where=str(folder),
            fix="choose a path with -o",
        )
    return folder


def load(
    model: str | torch.nn.Module,
    example_inputs: Sequence[Any] | Mapping[str, Any] | None = None,
    *,
    example: str | Path | None = None,
    inputs: Sequence[str] = (),
    batch: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Graph:
    """Load a source into a graph; arguments as `compile` takes them.

    Raises:
        EdgecError: the source cannot be loaded, exported or verified.
    """
    from edgec.frontends.inputs import open_sizes

    if batch is not None:
        batch = amounts.whole(batch, "--batch", 1, 2**31 - 1)
    graph = _loaded(model, example_inputs, example, inputs, batch, seed, progress or Silent())
    if example is not None:
        graph = dataclasses.replace(graph, ranges_from=f"{Path(example).name} and drawn inputs")
    return dataclasses.replace(graph, open_sizes=open_sizes(inputs)) if inputs else graph


def _loaded(
    model: str | torch.nn.Module,
    example_inputs: Sequence[Any] | Mapping[str, Any] | None,
    example: str | Path | None,
    inputs: Sequence[str],
    batch: int | None,
    seed: int,
    progress: Progress,
) -> Graph:
    from edgec.frontends import load as load_source
    from edgec.zoo import load as load_zoo

    if isinstance(model, str):
        if example_inputs is not None:
            raise RequestError("example_inputs go with a torch module only")
        if model.startswith("zoo:"):
            if inputs:
                raise RequestError("a zoo model's inputs are fixed", fix="leave out --input")
            name = model.removeprefix("zoo:")
            return load_zoo(name, example=example, batch=batch, seed=seed, progress=progress)
        return load_source(model, example=example, inputs=inputs, batch=batch, seed=seed, progress=progress)
    from edgec.frontends.torch import from_module, tensors_of

    if example_inputs is None and example is not None:
        example_inputs = tensors_of(example)
    if example_inputs is None:
        raise RequestError("a torch module needs example_inputs", fix="pass what its forward takes")

    name = type(model).__name__
    return from_module(
        model,
        example_inputs,
        spec=name,
        kind="torch",
        name=name.lower(),
        example=example,
        inputs=inputs,
        batch=batch,
        seed=seed,
        progress=progress,
    )


def to_neutral(graph: Graph, pipeline: Pipeline, progress: Progress) -> Neutral:
    """Run the passes on a copy of the graph and gate the result in fp32.

    Raises:
        NumericsError: the result is not what the source computed; names the first pass and layer.
    """
    neutral = dataclasses.replace(graph.clone(), imported=graph.model)
    reports = pipeline.run(neutral.model, on_pass=lambda name: progress.step(f"pass {name}"))
    progress.step("verifying the neutral graph")
    gate = check_neutral(neutral)
    if not gate.passed:
        progress.step("looking for the first pass and layer that break it")
        blame = first_bad_pass(graph, pipeline)
        gate = dataclasses.replace(gate, blame=blame)
        said = "" if blame else "; no single pass breaks it"
        fix = blame.fix if blame is not None and blame.fix else None
        raise NumericsError(f"{gate}{said}", fix=fix, details=[gate.to_json()])
    for name in _never_filled(neutral):
        progress.note(
            f"output {name!r} is empty on every sample drawn: nothing of it is verified; give inputs "
            "that fill it with --example F.npz"
        )
    return Neutral(neutral, reports, gate)


def _never_filled(graph: Graph) -> list[str]:
    """The outputs of which no sample has a number: where nothing is found, a wrong engine finds as little."""
    return [
        spec.name
        for spec in graph.outputs
        if graph.references and all(reference[spec.name].size == 0 for reference in graph.references)
    ]


def _engine_choice(
    request: Request,
    budget: Budget | None,
    progress: Progress,
    held_out: HeldOut,
) -> Choose:
    """The choice among the engines of a graph.

    Args:
        request: what is asked.
        budget: what lossy engines may cost; None where there is no data.
        progress: told each step.
        held_out: judges what is to ship.
    """

    def choose_engine(graph: Graph, scratch: Path, deadline: Deadline, whole: Choice | None) -> Choice:
        gating = budget if request.is_gated else None
        at_least = Deadline(max(deadline.left, LEAST_SEARCH * deadline.seconds))
        return choose(
            request.target, graph, request.precision, scratch, progress, gating, held_out, at_least, whole
        )

    return choose_engine


def _reduce(
    request: Request, neutral: Graph, budget: Budget | None, scratch: Path, progress: Progress
) -> Reduction:
    """The graph and engine that `--tokens` and `--slim` ask for.

    Raises:
        RequestError: there is no such setting, or nothing to search on.
        JobError: nothing can be taken away, or nothing reaches what is asked.
        NumericsError: held-out data refuses what the search found.
    """
    asked = request.takes_away
    fitting = neutral.calibration
    if budget is not None and "slim" in asked:
        budget, fitting = budgets.fitting_parted(neutral, budget)
    axes = axes_of(neutral, asked, progress, fitting)
    deadline = Deadline(request.search_seconds)
    if "auto" not in asked.values():
        held_out = HeldOut(budget, request.target, progress, is_gated=request.is_gated)
        choose_engine = _engine_choice(request, budget, progress, held_out)
        named = reduce_as_named(
            neutral, axes, asked, request.target, choose_engine, scratch, progress, deadline
        )
        for section in named.sections.values():
            section["gated"] = request.is_gated
        return named
    if budget is None:
        raise RequestError(
            f"--{next(iter(asked))} auto needs data to search on",
            fix="give --eval-data F.npz with inputs and labels, or --calib F.npz with inputs alone, or name "
            "what to take, as --tokens r=8",
        )
    # A latency alone says nothing about a drop: what it costs is reported.
    wants_drop = request.max_drop is not None or request.latency is None
    goal = Goal(budget.max_drop if wants_drop else None, request.latency)
    held_out = HeldOut(budget, request.target, progress, is_gated=goal.max_drop is not None)
    unjudged = HeldOut(None, request.target, progress, is_gated=False)
    return reduce_by_search(
        neutral,
        axes,
        asked,
        goal,
        request.target,
        _engine_choice(request, budget, progress, held_out),
        _engine_choice(request, budget, progress, unjudged),
        held_out.holds,
        budget,
        scratch,
        progress,
        deadline,
    )


def _needed_bytes(graph: Graph) -> int:
    """Room for some candidates' engines side by side, and for all that is small."""
    weights = sum(
        value.const_value.nbytes for value in graph.model.graph.initializers.values() if value.const_value
    )
    return 3 * weights + 2**20


def _check_latency(choice: Choice, budget: float | None) -> None:
    if budget is None or choice.chosen.latency is None:
        return
    reached = choice.chosen.latency.p50
    if reached > budget:
        raise JobError(
            f"the fastest engine, {choice.chosen.candidate.name}, takes {reached:.2f} ms, "
            f"{reached / budget:.2f} times the {budget:g} ms asked for",
            fix=f"ask for --latency {reached * 1.05:.2f}ms or a smaller model",
        )
