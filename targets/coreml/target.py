"""The target Core ML: a neutral graph to an .mlpackage for one release."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgec.core.bundle import ENGINE as ENGINE_FOLDER
from edgec.core.errors import JobError
from edgec.core.graph import Arrays, Graph
from edgec.passes.precision.decide import islands
from edgec.runtime.engine import Engine, EngineDescription, LayerTime
from edgec.targets.base import Candidate
from edgec.targets.coreml.caches import caches_of, check_sizes, find_caches, with_steps
from edgec.targets.coreml.compression import compress, form_named, forms, package_bytes
from edgec.targets.coreml.engine import CheckedPackage
from edgec.targets.coreml.features import FEATURES, Features
from edgec.targets.coreml.images import ImageInput, image_inputs, with_pixel_examples
from edgec.targets.coreml.input_types import check_enumerated
from edgec.targets.coreml.lowering.definitions import expanded
from edgec.targets.coreml.lowering.full import mark
from edgec.targets.coreml.lowering.hidden_rows import keep_hidden_rows
from edgec.targets.coreml.lowering.masks import clamped
from edgec.targets.coreml.lowering.program import Lowered, check_size, lower
from edgec.targets.coreml.neural_engine.channels_first import channels_first
from edgec.targets.coreml.neural_engine.form import FORM, decide
from edgec.targets.coreml.neural_engine.placement import section
from edgec.targets.coreml.open_shapes import settled
from edgec.targets.coreml.package import merged_outputs, save
from edgec.targets.coreml.shipping.swift import write as write_swift
from edgec.targets.coreml.words import variant_named

ENGINE = "coreml"
FEEDS = 8
"""Calibration inputs that decide what stays in fp32, beside the examples."""
MODEL = "model.mlpackage"
PRECISIONS = ("fp32", "fp16", "int8", "int4")


def decision_feeds(graph: Graph) -> list[Arrays]:
    """Inputs to decide on: the examples, and the first of the calibration's."""
    return [*graph.examples, *graph.calibration[:FEEDS]]


class CoreML:
    """Apple's devices, through an ML program package.

    Args:
        variant: `ios16`, `ios17`, `ios18` or `ios26`, and words behind it (`ios18:tensor`).

    Raises:
        RequestError: there is no such release or word.
    """

    runs_here = False
    """A package runs on Apple devices only: here it is checked, and nothing about it is measured."""

    def __init__(self, variant: str | None = None) -> None:
        self.name = "coreml"
        self.variant = variant_named(variant)
        self.release = self.variant.release
        self._why_form = ""

    def prepared(self, graph: Graph) -> Graph:
        """The graph with examples that the package can take: whole pixels where it takes pictures,
        calls in a row where it keeps states.

        Raises:
            JobError: the source cannot be run on them.
        """
        if graph.open_sizes:
            graph = graph.with_model(settled(graph.model))
        graph = with_pixel_examples(graph, self._images(graph))
        if not self.release.states or self.variant.asks_for("stateless"):
            return graph
        caches = find_caches(graph.model)
        check_sizes(caches)
        return with_steps(graph, caches)

    def _images(self, graph: Graph) -> dict[str, ImageInput]:
        return {} if self.variant.asks_for("tensor") else image_inputs(graph)

    def _lowered(
        self, graph: Graph, *, half_inputs: bool = False, apart: Mapping[str, int] | None = None
    ) -> Lowered:
        return lower(
            graph.model,
            self.release,
            half_inputs=half_inputs,
            open_sizes=graph.open_sizes,
            images=self._images(graph),
            labels=() if self.variant.asks_for("tensor") else graph.labels,
            caches=caches_of(graph),
            apart=apart,
        )

    def candidates(self, graph: Graph, precision: str) -> list[Candidate]:
        """One package in the precision asked for; `auto` is fp16, which every compute unit takes.

        Raises:
            UnsupportedError: something in the graph has no form in Core ML; lists all of it.
            MissingExtraError: coremltools is not installed.
            JobError: the precision is not available here.
        """
        wanted = "fp16" if precision == "auto" else precision
        if wanted not in PRECISIONS:
            raise JobError(
                f"--precision {wanted} is not available on Core ML", fix=f"use {' or '.join(PRECISIONS)}"
            )
        if wanted.startswith("int"):
            return self.compressed_candidates(graph, wanted)[:1]
        return [Candidate(ENGINE, wanted, self._form(graph, wanted))]

    def _form(self, graph: Graph, wanted: str) -> str:
        """The lowering form that the graph takes, once all of it has a form."""
        check_size(graph.model)
        check_enumerated(self._lowered(graph).inputs, graph.open_sizes, self.release)
        form = "fused attention" if self.release.fused_attention else "attention in parts"
        decision = decide(self.variant, expanded(graph.model), wanted)
        self._why_form = decision.why
        if decision.taken:
            form = FORM
        return f"{self.release.name}, {form}"

    def compressed_candidates(self, graph: Graph, precision: str) -> list[Candidate]:
        """The forms of the weights that the release reads, smallest first.

        Raises:
            JobError: the release does not read the precision.
            UnsupportedError: something in the graph has no form in Core ML; lists all of it.
        """
        found = forms(self.release, precision)
        form = self._form(graph, "fp16")
        return [Candidate(ENGINE, item.precision, form, "fp16", item.scheme) for item in found]

    def compress(self, exact: Path, candidate: Candidate, folder: Path) -> None:
        """Write the exact engine with its weights in the candidate's form.

        Raises:
            JobError: coremltools cannot compress it.
        """
        compress(exact / MODEL, form_named(candidate.precision, candidate.scheme), folder / MODEL)
        shutil.copyfile(exact / FEATURES, folder / FEATURES)
        described = EngineDescription.read(exact)
        dataclasses.replace(described, precision=candidate.precision, form=candidate.form).write(folder)

    def size(self, folder: Path) -> int:
        """What the package takes, in bytes."""
        return package_bytes(folder / MODEL)

    def lower(self, graph: Graph, candidate: Candidate) -> Graph:
        """The graph with every op that Core ML knows only by its definition replaced by it, channels first
        where the candidate's form says so; masks clamped, and what stays in fp32 marked.
        """
        model = expanded(graph.model.clone())
        keep_hidden_rows(model)
        if candidate.precision != "fp32":
            mark(model, islands(clamped(model), decision_feeds(graph)))
        return graph.with_model(channels_first(model).model if FORM in candidate.form else model)

    def build(self, graph: Graph, candidate: Candidate, folder: Path) -> None:
        """Write the package of a lowered graph into an empty folder, with its `engine.json`.

        Raises:
            UnsupportedError: something in the graph has no form in Core ML.
            JobError: coremltools cannot convert the program.
        """
        if candidate.is_lossy:
            with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
                exact = Path(scratch)
                self.build(graph, Candidate(ENGINE, "fp16", candidate.form), exact)
                self.compress(exact, candidate, folder)
            return
        lowered = self._saved(graph, candidate.precision, folder / MODEL)
        Features.of(lowered).write(folder)
        EngineDescription(ENGINE, MODEL, candidate.precision, 0, candidate.form, lowered.layers).write(folder)

    def _saved(self, graph: Graph, precision: str, path: Path) -> Lowered:
        """The program whose package was written, with every output in it."""
        apart: dict[str, int] = {}
        while True:
            lowered = self._lowered(graph, half_inputs=precision == "fp16", apart=apart)
            model = save(lowered, path, self.release, precision, description=graph.source.name)
            merged = merged_outputs(lowered, model)
            if not merged:
                return lowered
            if apart.keys() & set(merged):
                raise JobError(
                    f"Core ML keeps one of the equal outputs {', '.join(merged)} only", where=str(path)
                )
            apart |= {name: number for number, name in enumerate(merged, len(apart) + 1)}

    def ship(self, bundle: Path) -> None:
        """Add the Swift package: a typed wrapper, and the tools that measure it on a Mac or a phone."""
        write_swift(bundle)

    def annotate(self, report: dict[str, Any], bundle: Path) -> None:
        """Add what is predicted of the Neural Engine: who leaves it, and latencies by device."""
        fields, predicted = section(bundle / ENGINE_FOLDER, taken=FORM in report["form"], why=self._why_form)
        report["neural_engine"] = fields
        report["latency"]["predicted"] = predicted

    def open(self, folder: Path) -> Engine:
        """Open what `build` wrote, for checking."""
        return CheckedPackage(folder)

    def profile(self, engine: Engine, feeds: Arrays) -> list[LayerTime]:
        """No times: they are measured on the device."""
        return engine.profile(feeds)
