"""Advice for the Neural Engine, a row a cause: a sentence is said once, however many layers it is of."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass
class Advice:
    """Findings of one cause.

    Attributes:
        severity: what it does.
        why: the cause.
        fix: what helps.
        title: who says so.
        url: where.
        ops: the operations it is of.
        layers: the source layers, each once.
        count: how many operations.
    """

    severity: str
    why: str
    fix: str
    title: str
    url: str
    ops: list[str] = dataclasses.field(default_factory=list)
    layers: list[str] = dataclasses.field(default_factory=list)
    count: int = 0


def advice_by_cause(section: Mapping[str, Any] | None) -> list[Advice]:
    """The findings of a report's section on the Neural Engine; of equal severity, most operations first."""
    found: dict[tuple[str, ...], Advice] = {}
    for finding in (section or {}).get("findings", []):
        cause = tuple(finding[key] for key in ("severity", "why", "fix", "title", "url"))
        advice = found.setdefault(cause, Advice(*cause))
        advice.count += 1
        for value, seen in ((finding["op"], advice.ops), (finding["source"], advice.layers)):
            if value not in seen:
                seen.append(value)
    severities = list(dict.fromkeys(advice.severity for advice in found.values()))
    return sorted(found.values(), key=lambda advice: (severities.index(advice.severity), -advice.count))
