"""Runtimes that are known to compute something wrong, and whether a graph has what they get wrong.

The table is `known_wrong.toml`, whose head explains the fields. A match is a warning, never a refusal: the
engine's own check against the source decides, on the device where it can.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

from edgec.core.dialect import is_op, source_layer

_FILE = Path(__file__).with_name("known_wrong.toml")


@dataclasses.dataclass(frozen=True)
class Pattern:
    """A condition on one node; every part that is given has to hold."""

    ops: tuple[str, ...]
    attributes: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    present: tuple[str, ...] = ()
    dtype: str = ""
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    at_least: Mapping[str, int] = dataclasses.field(default_factory=dict)
    kernel_is_step: int = 0

    def fits(self, node: ir.Node) -> bool:
        """Whether a node meets it; a size that is not known does not."""
        if not is_op(node, *self.ops):
            return False
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        first = node.inputs[0] if node.inputs else None
        return (
            all(attributes.get(name) in values for name, values in self.attributes.items())
            and (not self.present or any(name in attributes for name in self.present))
            and (not self.dtype or (first is not None and first.dtype == ir.DataType[self.dtype.upper()]))
            and all(_size(first, axis) == size for axis, size in self.sizes.items())
            and all((_size(first, axis) or 0) >= size for axis, size in self.at_least.items())
            and (not self.kernel_is_step or self._is_patches(node, attributes))
        )

    def _is_patches(self, node: ir.Node, attributes: Mapping[str, Any]) -> bool:
        weight = node.inputs[1] if len(node.inputs) > 1 else None
        kernel = list(weight.shape or ())[2:] if weight is not None else []
        steps = list(attributes.get("strides") or ())
        return bool(kernel) and kernel == steps and min(steps) >= self.kernel_is_step


@dataclasses.dataclass(frozen=True)
class KnownWrong:
    """One entry of the table; the fields as its head explains them."""

    name: str
    runtime: str
    graph: tuple[Pattern, ...]
    seen: str
    instead: str
    sources: tuple[str, ...]
    since: str = ""
    before: str = ""
    precisions: tuple[str, ...] = ()

    def speaks_of(self, runtime: str, version: str, precision: str) -> bool:
        """Whether it is about this runtime; a version that is not known counts as affected."""
        if runtime != self.runtime or (self.precisions and precision not in self.precisions):
            return False
        number = _number(version)
        return not number or (
            (not self.since or number >= _number(self.since))
            and (not self.before or number < _number(self.before))
        )


@dataclasses.dataclass(frozen=True)
class Finding:
    """A graph that has what its runtime is known to get wrong.

    Attributes:
        name: the entry's name.
        layers: source layers of the nodes that its first pattern fits, each once.
        seen: who saw what in which version.
        instead: what to do.
        sources: where it is told.
    """

    name: str
    layers: tuple[str, ...]
    seen: str
    instead: str
    sources: tuple[str, ...]

    def __str__(self) -> str:
        more = len(self.layers) - 2
        where = ", ".join(self.layers[:2]) + (f" and {more} more" if more > 0 else "")
        return f"known to be wrong: {self.name} ({where}): {self.seen}; {self.instead}"


def warnings_of(model: ir.Model, runtime: str, version: str, precision: str) -> list[Finding]:
    """What is known to be wrong of a runtime in a graph.

    Args:
        model: the graph as the runtime is given it, or the neutral one.
        runtime: the engine's kind, as the table names it.
        version: of the runtime; empty where it is not known.
        precision: of the engine.
    """
    nodes = list(_nodes(model))
    found = []
    for entry in table():
        if entry.speaks_of(runtime, version, precision):
            fits = [[node for node in nodes if pattern.fits(node)] for pattern in entry.graph]
            if all(fits):
                layers = tuple(dict.fromkeys(source_layer(node) for node in fits[0]))
                found.append(Finding(entry.name, layers, entry.seen, entry.instead, entry.sources))
    return found


@functools.cache
def table() -> tuple[KnownWrong, ...]:
    """Every entry."""
    entries = tomllib.loads(_FILE.read_text(encoding="utf-8"))["wrong"]
    return tuple(
        KnownWrong(
            **{
                **entry,
                "graph": tuple(_pattern(pattern) for pattern in entry["graph"]),
                "sources": tuple(entry["sources"]),
                "precisions": tuple(entry.get("precisions", ())),
            }
        )
        for entry in entries
    )


def _pattern(fields: Mapping[str, Any]) -> Pattern:
    values = {name: tuple(allowed) for name, allowed in fields.get("attributes", {}).items()}
    return Pattern(
        **{
            **fields,
            "ops": tuple(fields["ops"]),
            "present": tuple(fields.get("present", ())),
            "attributes": values,
        }
    )


def _nodes(model: ir.Model) -> Iterator[ir.Node]:
    yield from model.graph.all_nodes()
    for function in model.functions.values():
        yield from function.all_nodes()


def _size(value: ir.Value | None, axis: str) -> int | None:
    sizes = list(value.shape or ()) if value is not None else []
    place = int(axis)
    size = sizes[place] if -len(sizes) <= place < len(sizes) else None
    return size if isinstance(size, int) else None


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])
