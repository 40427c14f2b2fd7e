"""Cutting what is zero changes nothing: every zoo model, every kind of unit, drawn sizes, many units at once.

    python benchmarks/slim_exact.py [MODEL …]

A model is a name of the zoo or anything that `edgec compile` takes. Some members of every unit of a neutral
graph are drawn and set to zero in the unit's constants; then they are cut, and the outputs of both graphs are
compared, in spreads of each output. Kinds are cut one by one, and all together. A unit over whose members a
normalisation takes its statistics is exact only without the mean, so there each LayerNormalization and each
GroupNormalization of one group is first written as RMSNormalization, in both graphs. Products are replaced by
their nearest of a drawn rank. Rows are kept in results/slim_exact.json; a run with names replaces only those.
"""

from __future__ import annotations

import collections
import json
import re
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from tables import RESULTS, markdown, publish

from edgec import zoo
from edgec.compiler import load, to_neutral
from edgec.core.dialect import is_op
from edgec.core.progress import Silent
from edgec.judging.gates import runnable
from edgec.passes.editing import Editor, attribute, constant, rank
from edgec.passes.infra import MatchLog
from edgec.passes.pipeline import default_pipeline
from edgec.passes.slim.cut import CutUnits
from edgec.passes.slim.factors import factors, weight_matrix
from edgec.passes.slim.find import find_units
from edgec.passes.slim.units import RANK, WHOLES, WIDTHS, Unit

ROWS = RESULTS / "slim_exact.json"
EXACT = 1e-5
DRAWS = 2
"""Draws of all kinds together."""

Kept = dict[str, list[int]]


def drawn(units: Sequence[Unit], generator: np.random.Generator) -> Kept:
    """Some members of each unit; of whole units every other one stays as it is."""
    kept = {}
    for unit in units:
        if unit.branches and generator.random() < 0.5:
            continue
        count = int(generator.integers(0 if unit.branches else 1, unit.size)) if unit.size > 1 else 0
        kept[unit.name] = sorted(generator.permutation(unit.size)[:count].tolist())
    return kept


def zeroed(model: ir.Model, units: Sequence[Unit], kept: Kept) -> ir.Model:
    """A copy whose leaving members are zero, and whose products have no more than the rank they keep."""
    copy = model.clone()
    nodes = {node.name: node for node in copy.graph}
    for unit in units:
        if unit.name not in kept:
            continue
        if unit.kind == RANK:
            _lower_rank(nodes[unit.node], len(kept[unit.name]))
        for extent in unit.slices:
            value = copy.graph.initializers[extent.value]
            array = value.const_value.numpy().copy()  # type: ignore[union-attr]
            np.moveaxis(array, extent.axis, 0)[~extent.kept(kept[unit.name])] = 0
            value.const_value = ir.tensor(array, name=value.name)
    return copy


def _lower_rank(node: ir.Node, count: int) -> None:
    matrix, weight = weight_matrix(node), node.inputs[1]
    assert matrix is not None
    assert weight is not None
    left, right = factors(matrix, count)
    low = (left.astype(np.float64) @ right).astype(matrix.dtype)
    if is_op(node, "Conv") or attribute(node, "transB", 0):
        low = low.T
    whole = constant(weight)
    assert whole is not None
    weight.const_value = ir.tensor(np.ascontiguousarray(low.reshape(whole.shape)), name=weight.name)


def without_means(model: ir.Model) -> ir.Model:
    """A copy whose layer norms take no mean away."""
    copy = model.clone()
    editor = Editor(copy, "benchmark")
    for node in list(copy.graph):
        grouped = is_op(node, "GroupNormalization") and int(attribute(node, "num_groups", 1)) == 1
        if not grouped and not is_op(node, "LayerNormalization"):
            continue
        data, parameters = node.inputs[0], list(node.inputs[1:])
        axis = 1 if grouped else int(attribute(node, "axis", -1))
        if grouped:
            trailing = [1] * ((rank(data) or 2) - 2)
            for place, value in enumerate(parameters):
                array = constant(value)
                assert array is not None
                parameters[place] = editor.initializer(array.reshape(-1, *trailing), "parameter")
        attributes = {"axis": axis, "epsilon": attribute(node, "epsilon", 1e-5)}
        out = node.outputs[0]
        made = editor.node(
            "RMSNormalization", [data, parameters[0]], like=node, attributes=attributes, shape=out.shape
        )
        if len(parameters) > 1:
            made = editor.node("Add", [made, parameters[1]], like=node, shape=out.shape)
        editor.replace(out, made)
    editor.remove_dead()
    return copy


def change(model: ir.Model, units: Sequence[Unit], kept: Kept, feeds: dict[str, np.ndarray]) -> float:
    """The worst difference of an output that the cut of zeros makes, in its spreads."""
    zeros = zeroed(model, units, kept)
    narrow = zeros.clone()
    CutUnits(units, kept)(narrow)
    onnx.checker.check_model(ir.to_proto(narrow))
    worst = 0.0
    for before, after in zip(outputs(zeros, feeds), outputs(narrow, feeds), strict=True):
        assert before.shape == after.shape
        spread = float(before.std()) or float(np.abs(before).max()) or 1.0
        worst = max(worst, float(np.abs(before - after).max()) / spread)
    return worst


def outputs(model: ir.Model, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The floating-point outputs by ONNX Runtime, which gets the graph as it is."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(ir.to_proto(runnable(model)).SerializeToString(), options)
    return [array for array in session.run(None, feeds) if array.dtype.kind == "f"]


def measure(spec: str) -> dict[str, Any]:
    """One row: units by kind, refusals by reason, and the worst change by kind."""
    graph = load(spec)
    neutral = to_neutral(graph, default_pipeline(), Silent()).graph
    log, generator = MatchLog(), np.random.default_rng(0)
    units = find_units(neutral.model, log)
    feeds = neutral.examples[0]
    plain = [unit for unit in units if not unit.normalized and not (unit.branches and not unit.slices)]
    changes = {}
    for kind in (*WIDTHS, *WHOLES, RANK):
        chosen = [unit for unit in plain if unit.kind == kind]
        if chosen:
            changes[kind] = change(neutral.model, units, drawn(chosen, generator), feeds)
    together = [unit for unit in plain if unit.kind != RANK]
    for draw in range(DRAWS if together else 0):
        kept = drawn(together, generator)
        changes[f"together {draw + 1}"] = change(neutral.model, units, kept, feeds)
    if any(unit.normalized for unit in units):
        bare = without_means(neutral.model)
        found = [unit for unit in find_units(bare, MatchLog()) if not unit.branches and unit.kind != RANK]
        normalized = [unit for unit in found if unit.normalized]
        changes["normalized"] = change(bare, found, drawn(normalized, generator), feeds)
        changes["all widths"] = change(bare, found, drawn(found, generator), feeds)
    without_layers = (re.sub(r" \(`[^`]*`\)", "", miss.reason) for miss in log.misses)
    reasons = collections.Counter(re.sub(r"`[^`]*`", "…", reason) for reason in without_layers)
    return {
        "units": dict(collections.Counter(unit.kind for unit in units)),
        "refused": dict(reasons),
        "untried": sum(1 for unit in units if unit.branches and not unit.slices),
        "changes": changes,
    }


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {what}" for what, count in counts.items()) or "none"


def main() -> None:
    rows: dict[str, dict[str, Any]] = json.loads(ROWS.read_text()) if ROWS.is_file() else {}
    for name in sys.argv[1:] or zoo.names():
        spec = f"zoo:{name}" if name in zoo.names() else name
        rows[name] = measure(spec)
        ROWS.write_text(json.dumps(rows, indent=1) + "\n")
        print(f"{name}: {max(rows[name]['changes'].values(), default=0):.1e}", file=sys.stderr)
    order = [*(name for name in zoo.names() if name in rows), *sorted(set(rows) - set(zoo.names()))]
    table = markdown(
        ["model", "units", "refused", "worst change", "of", "normalised units"],
        [_row(name, rows[name]) for name in order],
    )
    worst = max(value for row in rows.values() for value in row["changes"].values())
    untried = sum(row["untried"] for row in rows.values())
    body = (
        f"{table}\n\nWorst change {worst:.1e} of an output's spread; {EXACT:.0e} is allowed. "
        f"{untried} whole branches end in a form whose zeros are not known, and were not tried."
    )
    publish("slim_exact", "Cutting what is zero changes nothing", body)


def _row(name: str, row: dict[str, Any]) -> list[object]:
    changes = dict(row["changes"])
    normalized = max(
        (changes.pop(key) for key in ("normalized", "all widths") if key in changes), default=None
    )
    worst = max(changes, key=lambda kind: changes[kind], default="")
    label = name.rpartition(":")[2].removeprefix("make_")
    return [label, _counts(row["units"]), _counts(row["refused"]), changes.get(worst), worst, normalized]


if __name__ == "__main__":
    main()
