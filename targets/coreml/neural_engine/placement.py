"""Where a package's ops are expected to run and how long they may take: predictions from device profiles."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgec.devices.prediction import (
    BANDWIDTH_SHARE,
    DISPATCH_MS,
    RATE_SHARE,
    PredictedLatency,
    Unpredicted,
    Work,
    predict,
)
from edgec.devices.profiles import profiles
from edgec.targets.coreml.neural_engine.lint import Finding, leaving, lint, rules
from edgec.targets.coreml.neural_engine.operations import Operation, operations

_AT_THE_DOOR = ("cast", "classify", "identity")
"""Ops that turn a type at the program's ends: they start no dispatch of their own."""


def macs(operation: Operation) -> int:
    """Multiply-accumulates of one operation; 0 for those without products and for open shapes."""
    result = operation.outputs[0].shape if operation.outputs else ()
    elements = math.prod(result)
    weight, x, y = operation.given("weight"), operation.given("x"), operation.given("y")
    if operation.op in ("conv", "conv_transpose") and weight is not None and x is not None:
        # A transposed convolution meets each weight once for every input element.
        spread = elements if operation.op == "conv" else math.prod(x.shape)
        return spread * math.prod(weight.shape[1:])
    if operation.op == "linear" and weight is not None:
        return elements * weight.shape[-1]
    if operation.op == "matmul" and x is not None and y is not None and len(x.shape) > 1:
        return elements * x.shape[-2 if operation.numbers.get("transpose_x") else -1]
    query, key, value = (operation.given(name) for name in ("query", "key", "value"))
    if operation.op == "scaled_dot_product_attention" and query and key and value:
        return math.prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1])
    return 0


def work_of(program: Sequence[Operation], findings: Sequence[Finding]) -> list[Work]:
    """The work of each op, with where it is expected to run; weights count where they are first read."""
    gone = leaving(findings)
    doubted = {finding.node for finding in findings if finding.severity == "may leave"}
    read: set[str] = set()
    work = []
    for operation in program:
        if operation.op in _AT_THE_DOOR:
            continue
        weights = {tensor.name: tensor.bytes for _, tensor in operation.inputs if tensor.constant}
        fresh = sum(size for name, size in weights.items() if name not in read)
        read |= set(weights)
        stays = operation.name not in gone
        work.append(Work(operation.name, macs(operation), fresh, stays, operation.name not in doubted))
    return work


def section(folder: Path, *, taken: bool, why: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The report's section on the Neural Engine, and its predicted latencies.

    Args:
        folder: the engine's folder.
        taken: whether the graph was written in the Neural Engine's form.
        why: why it was or was not.

    Returns:
        `report.neural_engine` and `report.latency.predicted`, as `edgec.report.schema` has them.
    """
    program = operations(folder)
    findings = lint(program)
    work = work_of(program, findings)
    known = [predict(profile, work) for profile in profiles() if profile.vendor == "Apple"]
    predicted = [item for item in known if isinstance(item, PredictedLatency)]
    total = sum(item.macs for item in work)
    kinds = Counter(operation.op for operation in program)
    fields = {
        "predicted": True,
        "form": {"taken": taken, "why": why},
        "operations": len(program),
        "transposes": kinds["transpose"],
        "reshapes": kinds["reshape"],
        "fused_attention": kinds["scaled_dot_product_attention"],
        "placement": {
            "neural_engine": sum(item.accelerated for item in work),
            "elsewhere": sum(not item.accelerated for item in work),
            "macs_share": sum(item.macs for item in work if item.accelerated) / total if total else None,
        },
        "counts": {
            name: sum(item.severity == name for item in findings) for name in ("leaves", "may leave", "slow")
        },
        "findings": [dataclasses.asdict(finding) for finding in findings],
        "rules": len(rules()),
        "method": [RATE_SHARE.why, BANDWIDTH_SHARE.why, DISPATCH_MS.why],
        "unpredicted": [dataclasses.asdict(item) for item in known if isinstance(item, Unpredicted)],
    }
    entries = [
        {
            "name": "Core ML package on the Neural Engine",
            "device": item.title,
            "p50": item.p50,
            "low": item.low,
            "high": item.high,
            "why": item.why,
        }
        for item in predicted
    ]
    return fields, entries
