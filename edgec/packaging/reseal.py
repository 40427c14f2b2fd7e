"""A Jetson bundle whose graph was edited by hand, checked and sealed anew.

`engine/model.onnx` may be changed with onnx-graphsurgeon or any other tool: the graph must still be what its
TensorRT takes, and still compute the samples. The variants of the engine are of the graph before, so they go.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import onnx_ir as ir

from edgec.core import bundle as bundles
from edgec.core.bundle import Bundle
from edgec.core.dialect import source_layer
from edgec.core.errors import IntegrityError, JobError, NumericsError, RequestError
from edgec.core.evaluation import Evaluator
from edgec.core.json_file import to_bytes
from edgec.core.numerics import Difference
from edgec.core.plain_files import plain_files
from edgec.plugins.bindings import tensorrt
from edgec.targets.jetson import lowering
from edgec.targets.jetson.engine import runnable
from edgec.targets.jetson.plan import MODEL, Plan
from edgec.targets.jetson.versions import dialect


def reseal(path: Path) -> dict[str, Any]:
    """Check an edited bundle and seal it.

    Returns:
        `bundle`, `changed` (files), `said` (what follows from the edit), `max_abs`, `scaled`.

    Raises:
        RequestError: it is no folder of a Jetson bundle, or its graph cannot be read or has other inputs or
            outputs than before.
        IntegrityError: something else than the graph was changed.
        UnsupportedError: the TensorRT does not take the edited graph; lists all of it.
        NumericsError: the edited graph does not compute the samples.
    """
    opened = Bundle.open(path, check=False)
    if opened.is_unpacked or not (opened.engine_folder / "plan.json").is_file():
        raise RequestError(
            "only the folder of a Jetson bundle is sealed again", where=str(path), fix="unpack it first"
        )
    changed = _changed(opened)
    if not changed:
        return {"bundle": str(path), "changed": [], "said": ["nothing was changed"]}
    plan = Plan.read(opened.engine_folder)
    model = _read(opened.engine_folder / MODEL)
    _check_edges(model, plan, path)
    half = "fp16" in plan.flags or opened.manifest["precision"] != "fp32"
    capability = round(float(plan.compute_capability) * 10)
    lowering.check(model, dialect(plan.tensorrt), tensorrt.kernels_for(capability, half=half))
    difference = _judged(opened, model, plan)
    edited, said = _planned(plan, model, opened.engine_folder)
    _write(opened, edited, said)
    numbers = {"max_abs": difference.max_abs, "scaled": difference.scaled}
    return {"bundle": str(path), "changed": changed, "said": said, **numbers}


def _changed(opened: Bundle) -> list[str]:
    """The files of the graph that are not as recorded."""
    recorded = opened.manifest["files"]
    present = set(plain_files(opened.path)) - {bundles.MANIFEST, bundles.SIGNATURE}
    differ = [
        name
        for name in sorted(present | set(recorded))
        if name not in present or bundles.file_sha256(opened.path / name) != recorded.get(name)
    ]
    others = [name for name in differ if not name.startswith(f"{bundles.ENGINE}/model")]
    if others:
        raise IntegrityError(
            f"{', '.join(others)} changed too",
            where=str(opened.path),
            fix=f"only {bundles.ENGINE}/{MODEL} and its weights may be edited: compile again",
        )
    return differ


def _read(path: Path) -> ir.Model:
    try:
        return ir.load(path)
    except Exception as error:
        # Protobuf and onnx-ir share no class for a file they cannot read.
        raise RequestError(
            f"cannot be read as ONNX ({error})", where=str(path), fix="save it again with onnx.save"
        ) from error


def _check_edges(model: ir.Model, plan: Plan, path: Path) -> None:
    """The samples are of these inputs and outputs, so an edited graph has the same."""
    for word, values, known in (
        ("input", model.graph.inputs, plan.inputs),
        ("output", model.graph.outputs, plan.outputs),
    ):
        now, before = {value.name for value in values}, {one.name for one in known}
        strange = [f"{name!r} is new" for name in sorted(now - before, key=str)]
        strange += [f"{name!r} is gone" for name in sorted(before - now)]
        if strange:
            raise RequestError(
                f"{word} {' and '.join(strange)}, and the source computed no sample of that",
                where=str(path / bundles.ENGINE / MODEL),
                fix="keep the inputs and outputs, or change them in the source and compile again",
            )


def _judged(opened: Bundle, model: ir.Model, plan: Plan) -> Difference:
    """How far the edited graph is from the samples, where that is allowed."""
    feeds, expected = opened.samples()
    try:
        with Evaluator(runnable(model)) as evaluator:
            found = [evaluator.run(feed) for feed in feeds]
    except Exception as error:
        # ONNX Runtime raises its own classes for a graph that fails inside.
        raise JobError(
            f"the edited graph does not run on the samples ({error})",
            where=str(opened.engine_folder / MODEL),
            fix="undo the edit and try again",
        ) from error
    difference = expected.difference(found, plan.gate)
    broken = plan.gate.broken(difference)
    if broken:
        raise NumericsError(
            f"the edited graph no longer computes the samples: output {difference.output!r} is {broken}",
            details=[dataclasses.asdict(difference)],
            where=str(opened.engine_folder / MODEL),
            fix="undo the edit, or change the source and compile again",
        )
    return difference


def _planned(plan: Plan, model: ir.Model, folder: Path) -> tuple[Plan, list[str]]:
    """The plan of the edited graph, and what follows from the edit."""
    names = {node.name for node in model.graph if node.name}
    kept = {name: kind for name, kind in plan.layer_precisions.items() if name in names}
    tensors = model.graph.initializers.values()
    outside = any(isinstance(value.const_value, ir.ExternalTensor) for value in tensors)
    said = [
        f"{name} is gone, and its precision with it" for name in sorted(set(plan.layer_precisions) - names)
    ]
    if plan.variants:
        said.append(f"{len(plan.variants) - 1} variants of the engine are of the graph before, and are gone")
    weights = plan.weights if outside else None
    edited = dataclasses.replace(
        plan,
        model_sha256=bundles.file_sha256(folder / MODEL),
        weights=weights,
        weights_sha256=None if weights is None else bundles.file_sha256(folder / weights),
        layer_precisions=kept,
        sources={
            node.name: plan.sources.get(node.name, source_layer(node)) for node in model.graph if node.name
        },
        variants=(),
    )
    return edited, said


def _write(opened: Bundle, plan: Plan, said: list[str]) -> None:
    """The bundle with its new plan, and without what the edit left behind; whole or not at all."""
    from edgec.report.render import render

    report = opened.report()
    note = "; ".join([f"{bundles.ENGINE}/{MODEL} was edited after the compile and verified again", *said])
    model = report.get("model") or {}
    report["model"] = {**model, "notes": [*model.get("notes", []), note]}
    manifest = {key: value for key, value in opened.manifest.items() if key not in ("files", "sha256")}
    with bundles.writing(opened.path) as scratch:
        shutil.copytree(opened.path, scratch, dirs_exist_ok=True)
        engine = scratch / bundles.ENGINE
        for left in engine.glob("model*"):
            if left.name not in (plan.model, plan.weights):
                left.unlink()
        plan.write(engine)
        bundles.write_json(scratch / bundles.REPORT_JSON, report)
        (scratch / bundles.REPORT_HTML).write_bytes(to_bytes(render(report)))
        bundles.seal(scratch, manifest)
