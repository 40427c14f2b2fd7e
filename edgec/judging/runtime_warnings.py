"""What is known to be wrong of the runtime that an engine is for, in the graph that it is given."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

from edgec.devices.known_wrong import Finding, warnings_of

_PACKAGES = {"ort": "onnxruntime", "openvino": "openvino"}


def runtime_warnings(folder: Path, model: ir.Model, engine: str, precision: str) -> list[Finding]:
    """What is known to be wrong.

    Args:
        folder: the engine's folder.
        model: the neutral graph of the engine; one for TensorRT has the graph that TensorRT parses inside.
        engine: the engine's kind.
        precision: of the engine.
    """
    version = ""
    if engine == "tensorrt":
        from edgec.targets.jetson.plan import Plan

        plan = Plan.read(folder)
        model, version = ir.load(folder / plan.model), plan.tensorrt
    elif engine in _PACKAGES:
        version = importlib.metadata.version(_PACKAGES[engine])
    return warnings_of(model, engine, version, precision)


def to_json(findings: list[Finding]) -> list[dict[str, Any]]:
    """As the report keeps them; `text` is the whole of each in one sentence."""
    return [{**dataclasses.asdict(finding), "text": str(finding)} for finding in findings]


def texts(report: Mapping[str, Any]) -> list[str]:
    """One sentence each, from a bundle's report."""
    return [finding["text"] for finding in report.get("known_wrong", ())]
