"""What each TensorRT takes, read from `versions.toml`."""

from __future__ import annotations

import dataclasses
import functools
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_FILE = Path(__file__).with_name("versions.toml")


@dataclasses.dataclass(frozen=True)
class Dialect:
    """The ONNX that one TensorRT release takes; the fields as `versions.toml` explains them.

    Attributes:
        version: major.minor, `10.3`.
        opset: the newest ONNX opset written for it.
        ops: op types of the default domain that its parser knows.
        native_attention: whether `Attention` stays one node where its inputs are fp16.
        strongly_typed: whether the graph's own types are all there is to precision.
        narrow_integers: whether int64 is int32 in the engine, inputs and outputs too.
        one_query: whether an attention with a single query comes out right, written with products.
        without_passes: passes of the pipeline that are left out for it.
        plugin_api: 2 or 3.
        float_only: ops that refuse integers.
        constant_axes: ops whose axes must be initializers.
        misread: by op, attributes that its parser reads wrong or not at all without saying so.
        sources: titles of the documents.
    """

    version: str
    opset: int
    ops: frozenset[str]
    native_attention: bool
    strongly_typed: bool
    narrow_integers: bool
    one_query: bool
    without_passes: tuple[str, ...]
    plugin_api: int
    float_only: frozenset[str]
    constant_axes: frozenset[str]
    misread: Mapping[str, frozenset[str]]
    sources: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class FusedAttention:
    """Where TensorRT may run attention as one kernel.

    Attributes:
        compute_capability: the oldest, times ten.
        smallest_head: smallest head size.
        largest_head: largest head size.
        multiple: what the head size is a multiple of.
    """

    compute_capability: int
    smallest_head: int
    largest_head: int
    multiple: int


def dialect(tensorrt: str) -> Dialect:
    """The dialect of a TensorRT version: the newest known that is not newer than it.

    Args:
        tensorrt: `10.3`, or with a patch number, `8.5.2`.

    Raises:
        ValueError: it is older than every known one.
    """
    wanted = _number(tensorrt)
    older = [known for known in dialects().values() if _number(known.version) <= wanted]
    if not older:
        raise ValueError(f"TensorRT {tensorrt} is older than {next(iter(dialects()))}")
    return older[-1]


@functools.cache
def dialects() -> dict[str, Dialect]:
    """All dialects by version, oldest first."""
    table = _table()
    found: dict[str, Dialect] = {}
    ops: frozenset[str] = frozenset()
    for entry in table["versions"]:
        ops = (ops | frozenset(entry["added"])) - frozenset(entry.get("removed", ()))
        found[entry["version"]] = Dialect(
            version=entry["version"],
            opset=entry["opset"],
            ops=ops,
            native_attention=entry["native_attention"],
            strongly_typed=entry["strongly_typed"],
            narrow_integers=entry["narrow_integers"],
            one_query=entry["one_query"],
            without_passes=tuple(entry["without_passes"]),
            plugin_api=entry["plugin_api"],
            float_only=frozenset(entry["float_only"]),
            constant_axes=frozenset(entry["constant_axes"]),
            misread={op: frozenset(names) for op, names in entry["misread"].items()},
            sources=tuple(table["sources"][key]["title"] for key in entry["source"]),
        )
    return found


@functools.cache
def defaults_differ() -> dict[str, tuple[str, ...]]:
    """By op, attributes to write out because some parser has another default for them than ONNX."""
    return {op: tuple(names) for op, names in _table()["defaults_differ"].items() if op != "source"}


@functools.cache
def fused_attention() -> FusedAttention:
    """Where TensorRT may run attention as one kernel."""
    entry: Mapping[str, Any] = _table()["fused_attention"]
    smallest, largest = entry["head_size"]
    return FusedAttention(
        round(float(entry["compute_capability"]) * 10), smallest, largest, entry["head_size_multiple"]
    )


@functools.cache
def _table() -> dict[str, Any]:
    return tomllib.loads(_FILE.read_text(encoding="utf-8"))


def _number(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)
