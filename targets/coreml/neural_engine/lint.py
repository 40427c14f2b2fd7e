"""What of a package will likely leave the Neural Engine, op by op, each with its source."""

from __future__ import annotations

import dataclasses
import functools
import math
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgec.targets.coreml.neural_engine.operations import Operation, Tensor

RULES = Path(__file__).parent / "rules.toml"

SEVERITIES = ("leaves", "may leave", "slow")


@dataclasses.dataclass(frozen=True)
class LintRule:
    """A rule of `rules.toml`.

    Attributes:
        id: its name.
        check: which check of this module it runs.
        severity: one of `SEVERITIES`.
        why: what is wrong, one clause.
        fix: what would help.
        title: the document that says so.
        url: its address.
        numbers: the check's parameters.
    """

    id: str
    check: str
    severity: str
    why: str
    fix: str
    title: str
    url: str
    numbers: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Finding:
    """One op that a rule speaks of.

    Attributes:
        rule: the rule's id.
        severity: one of `SEVERITIES`.
        node: the operation's name in the package.
        op: its MIL type.
        source: the layer of the user's model.
        why: what is wrong, with the tensor or the number.
        fix: what would help.
        title: the document that says so.
        url: its address.
    """

    rule: str
    severity: str
    node: str
    op: str
    source: str
    why: str
    fix: str
    title: str
    url: str


@functools.cache
def rules() -> tuple[LintRule, ...]:
    """All rules, in the file's order."""
    fields = tomllib.loads(RULES.read_text(encoding="utf-8"))
    known = {"id", "check", "severity", "why", "fix", "source"}
    return tuple(
        LintRule(
            **{key: entry[key] for key in ("id", "check", "severity", "why", "fix")},
            **fields["sources"][entry["source"]],
            numbers={key: value for key, value in entry.items() if key not in known},
        )
        for entry in fields["rules"]
    )


def lint(operations: Sequence[Operation]) -> list[Finding]:
    """Every finding, in the program's order; of the rules of one check, the first that speaks."""
    found = []
    for operation in operations:
        spoken: set[str] = set()
        for rule in rules():
            detail = None if rule.check in spoken else _CHECKS[rule.check](operation, rule.numbers)
            if detail is None:
                continue
            if rule.check not in ("ops", "parameter"):
                spoken.add(rule.check)
            why = f"{rule.why} ({detail})" if detail else rule.why
            found.append(
                Finding(
                    rule.id,
                    rule.severity,
                    operation.name,
                    operation.op,
                    operation.source,
                    why,
                    rule.fix,
                    rule.title,
                    rule.url,
                )
            )
    return found


def leaving(findings: Sequence[Finding]) -> set[str]:
    """Names of the operations that have no path on the Neural Engine by some rule."""
    return {finding.node for finding in findings if finding.severity == "leaves"}


Check = Callable[[Operation, dict[str, Any]], str | None]
_CHECKS: dict[str, Check] = {}


def _check(function: Check) -> Check:
    _CHECKS[function.__name__.removeprefix("_")] = function
    return function


def _shown(tensor: Tensor) -> str:
    sizes = "×".join(str(size) if size else "?" for size in tensor.shape)
    return f"{tensor.dtype} {sizes}".strip()


def _computed(operation: Operation) -> list[Tensor]:
    return [tensor for _, tensor in operation.inputs if not tensor.constant]


@_check
def _ops(operation: Operation, numbers: dict[str, Any]) -> str | None:
    return "" if operation.op in numbers["ops"] else None


@_check
def _rank(operation: Operation, numbers: dict[str, Any]) -> str | None:
    tensors = [*operation.outputs, *_computed(operation)]
    return next((_shown(tensor) for tensor in tensors if len(tensor.shape) > numbers["above"]), None)


@_check
def _dtype(operation: Operation, numbers: dict[str, Any]) -> str | None:
    # A cast at the door turns the type, on whichever unit: what follows it counts.
    if operation.op == "cast" and any(tensor.dtype == "fp16" for tensor in operation.outputs):
        return None
    dtypes = numbers["dtypes"]
    return next((_shown(tensor) for tensor in operation.outputs if tensor.dtype in dtypes), None)


@_check
def _dynamic(operation: Operation, numbers: dict[str, Any]) -> str | None:  # noqa: ARG001
    return next((_shown(tensor) for tensor in operation.outputs if 0 in tensor.shape), None)


@_check
def _small_attention(operation: Operation, numbers: dict[str, Any]) -> str | None:
    query = operation.given("query")
    if operation.op != "scaled_dot_product_attention" or query is None or len(query.shape) < 3:
        return None
    heads, queries = query.shape[-3], query.shape[-2]
    if heads >= numbers["heads"] and queries >= numbers["queries"]:
        return None
    return f"{heads} heads and {queries} queries; from {numbers['heads']} and {numbers['queries']} on"


@_check
def _batched_scores(operation: Operation, numbers: dict[str, Any]) -> str | None:  # noqa: ARG001
    result = operation.outputs[0]
    if (
        operation.op != "softmax"
        or len(result.shape) != 4
        or result.shape[1] <= 1
        or min(result.shape[2:]) <= 1
    ):
        return None
    return _shown(result)


@_check
def _parameter(operation: Operation, numbers: dict[str, Any]) -> str | None:
    value = operation.numbers.get(numbers["parameter"])
    if operation.op not in numbers["ops"] or value is None:
        return None
    sizes = value if isinstance(value, list) else [value]
    largest = max((int(size) for size in sizes), default=0)
    return f"{numbers['parameter']} {sizes}" if largest > numbers["above"] else None


@_check
def _kernel(operation: Operation, numbers: dict[str, Any]) -> str | None:
    weight = operation.given("weight")
    if operation.op not in ("conv", "conv_transpose") or weight is None:
        return None
    return _shown(weight) if max(weight.shape[2:], default=0) > numbers["above"] else None


@_check
def _extent(operation: Operation, numbers: dict[str, Any]) -> str | None:
    return next(
        (_shown(tensor) for tensor in operation.outputs if max(tensor.shape, default=0) > numbers["above"]),
        None,
    )


@_check
def _last_axis(operation: Operation, numbers: dict[str, Any]) -> str | None:
    result = operation.outputs[0]
    width = {"fp16": 2, "fp32": 4}.get(result.dtype)
    if width is None or not result.shape or 0 in result.shape:
        return None
    taken = math.ceil(result.shape[-1] * width / numbers["bytes"]) * numbers["bytes"]
    waste = taken / (result.shape[-1] * width)
    # A small tensor is padded too, and nobody notices.
    if waste < numbers["waste"] or result.bytes < 16 * 1024:
        return None
    return f"{_shown(result)} takes {waste:.0f} times its size"


@_check
def _large_constant(operation: Operation, numbers: dict[str, Any]) -> str | None:
    if operation.op not in ("add", "sub", "select", "maximum", "minimum"):
        return None
    for value in operation.numbers.values():
        values = value if isinstance(value, list) else [value]
        if any(
            isinstance(one, float) and math.isfinite(one) and abs(one) > numbers["above"] for one in values
        ):
            return f"{max(values, key=abs):g}"
    return None
