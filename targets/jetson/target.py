"""The target Jetson: a neutral graph to what a device needs to build its TensorRT engine."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from edgec.core.bundle import ENGINE as ENGINE_FOLDER
from edgec.core.errors import JobError
from edgec.core.graph import Arrays, Graph
from edgec.plugins.bindings import tensorrt
from edgec.runtime.engine import Engine, EngineDescription, LayerTime
from edgec.targets.base import Candidate
from edgec.targets.jetson import lowering, on_device, writing
from edgec.targets.jetson.aside import LACKING
from edgec.targets.jetson.devices import device
from edgec.targets.jetson.engine import CheckedGraph
from edgec.targets.jetson.plan import MODEL, WEIGHTS, Plan, Variant
from edgec.targets.jetson.precise import int8_candidates, kept_nodes, lowered
from edgec.targets.jetson.preview import has_fp32_products, nearest_capability, preview
from edgec.targets.jetson.shapes import shape_profiles
from edgec.targets.jetson.variants import LoweredGraph, half_variants, write_variants

ENGINE = "tensorrt"
PRECISIONS = ("fp32", "fp16", "int8")


class Jetson:
    """NVIDIA's Jetson modules, through TensorRT.

    Args:
        profile: a device's profile without `jetson-`, with a JetPack release behind a colon where it may
            have several; None for the default.

    Attributes:
        device: the device that engines are for.
        without_passes: what its TensorRT gets wrong.
    """

    runs_here = False
    """An engine is built on the device: here the graph is checked and previewed, and nothing is measured."""

    def __init__(self, profile: str | None = None) -> None:
        self.name = "jetson"
        self.device = device(profile)
        self.without_passes = self.device.dialect.without_passes
        self._shipped: str | None = None

    def prepared(self, graph: Graph) -> Graph:
        """The graph with what the target's name left open among its notes."""
        notes = (*graph.source.notes, *self.device.assumed)
        return dataclasses.replace(graph, source=dataclasses.replace(graph.source, notes=notes))

    def candidates(self, graph: Graph, precision: str) -> list[Candidate]:
        """One engine in the precision asked for; `auto` is fp16, which these GPUs are made for.

        int8 has several, with more and more layers unquantised: the first that keeps the budget is taken.

        Raises:
            UnsupportedError: something in the graph has no form in the device's TensorRT; lists it all.
            RequestError: a dimension is open and has no bounds.
            JobError: the precision is not available.
        """
        wanted = "fp16" if precision == "auto" else precision
        if wanted not in PRECISIONS:
            raise JobError(
                f"--precision {wanted} is not available on a Jetson", fix=f"use {' or '.join(PRECISIONS)}"
            )
        shape_profiles(graph)
        half = wanted != "fp32"
        model = lowering.lower(
            graph.model, self.device.dialect, native_attention=half, keep=self._kernels(half=half)
        )
        self._shipped = wanted
        form = f"TensorRT {self.device.tensorrt} of JetPack {self.device.jetpack}, {self.device.name}"
        if wanted != "int8":
            return [Candidate(ENGINE, wanted, form)]
        return int8_candidates(ENGINE, form, model, graph)

    def lower(self, graph: Graph, candidate: Candidate) -> Graph:
        """The graph in the dialect of the device's TensorRT, with the candidate's precision written in.

        One in fp16 brings its variants.
        """
        kernels = self._kernels(half=candidate.precision != "fp32")
        device = self.device
        model, decided = lowered(graph, candidate, device.dialect, device.compute_capability, keep=kernels)
        if decided is None:
            return graph.with_model(model)
        others = half_variants(graph, device.dialect, decided, kernels)
        return LoweredGraph(**{**vars(graph), "model": model}, others=others)

    def build(self, graph: Graph, candidate: Candidate, folder: Path) -> None:
        """Write the models, their plan and the preview's record into an empty folder, with its `engine.json`.

        Raises:
            UnsupportedError: the device's parser would misread something, or TensorRT's parser or builder
                refuses something in the preview.
        """
        model = graph.model
        lowering.check(model, self.device.dialect, self._kernels(half=candidate.precision != "fp32"))
        weights = writing.write_model(model, folder)
        variants: tuple[Variant, ...] = ()
        if weights is None:
            flags = writing.builder_flags(graph, self.device, candidate.precision)
            variants = write_variants(graph, folder, flags, typed=self.device.dialect.strongly_typed)
            weights = WEIGHTS if (folder / WEIGHTS).exists() else None
        plan = writing.write_plan(graph, self.device, candidate.precision, folder, weights, variants)
        if candidate.precision == self._shipped:
            self._preview(graph, folder)
        EngineDescription(ENGINE, MODEL, candidate.precision, 0, candidate.form, plan.sources).write(folder)

    def open(self, folder: Path) -> Engine:
        """Open what `build` wrote, for checking."""
        return CheckedGraph(folder)

    def ship(self, bundle: Path) -> None:
        """Add the builder and runner for the device, and the sources of the plugins that the graph uses."""
        on_device.copy_to(bundle)
        used = [plugin.op for plugin in Plan.read(bundle / "engine").plugins]
        if used:
            tensorrt.write_sources(bundle / "plugins", used)

    def annotate(self, report: dict[str, Any], bundle: Path) -> None:
        """Say which nodes no builder here has tried."""
        preview = json.loads((bundle / ENGINE_FOLDER / writing.PREVIEW).read_text(encoding="utf-8"))
        has = f"by the versions' table TensorRT {self.device.tensorrt} has it"
        said = [f"{node} was previewed around: {why}; {has}" for node, why in preview["around"].items()]
        report["model"]["notes"] = [*report["model"]["notes"], *said]

    def profile(self, engine: Engine, feeds: Arrays) -> list[LayerTime]:
        """No times: they are measured on the device."""
        return engine.profile(feeds)

    def _kernels(self, *, half: bool) -> frozenset[str]:
        return tensorrt.kernels_for(self.device.compute_capability, half=half)

    def _preview(self, graph: Graph, folder: Path) -> None:
        capability = nearest_capability(
            self.device.compute_capability, fp32_products=has_fp32_products(graph.model)
        )
        name = f"jetson ({self.device.title}, TensorRT {self.device.tensorrt})"
        built = preview(graph.model, [capability], shape_profiles(graph), target=name, lacking=LACKING)
        writing.write_preview(
            {
                "tool": built.tool,
                "compute_capability": f"{capability // 10}.{capability % 10}",
                "layers": built.layers,
                "around": built.aside,
                "attention": writing.attention_summary(graph.model, self.device.compute_capability),
                "kept_in_fp32": len(kept_nodes(graph.model)),
                "plugins": writing.plugin_summary(graph.model),
            },
            folder,
        )
