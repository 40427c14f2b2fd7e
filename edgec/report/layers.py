"""The per-layer profile, summed up by module and by kind of work."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence

from edgec.report.schema import Layer

TOP_LAYERS = 16
"""Layers that the chart of the slowest shows; the table has them all."""

SMALL_SHARE = 0.01
"""Modules below this share of the time are not worth a row each."""

_KINDS: tuple[tuple[str, str, str], ...] = (
    ("attention", "attention", r"attention|sdpa|flash|mha"),
    ("convolution", "conv", r"conv"),
    ("matrix product", "product", r"matmul|gemm|fullyconnected|fully_connected|linear|innerproduct|einsum"),
    ("normalisation", "norm", r"norm|mvn"),
    ("softmax", "softmax", r"softmax"),
    (
        "data movement",
        "move",
        r"transpose|permute|reshape|reorder|concat|split|slice|gather|scatter|pad|expand|tile|squeeze|"
        r"convert|cast|copy|input|result|output|parameter",
    ),
    ("pooling and sums", "pool", r"pool|reduce|cumsum|topk"),
    (
        "elementwise",
        "element",
        r"eltwise|gelu|relu|silu|swish|sigmoid|tanh|erf|add|sub|mul|div|pow|sqrt|exp|where|select|clip|min|max|"
        r"subgraph|quantize|activation|and|or|not|equal|less|greater",
    ),
)
"""Name, class and pattern of the kinds of work, by the engines' own op names; the first that fits counts."""

OTHER = ("other", "other")


@dataclasses.dataclass(frozen=True)
class Group:
    """Layers that belong together.

    Attributes:
        name: the module's prefix in the user's model, or the kind of work.
        css: class of its colour.
        layers: how many engine layers.
        microseconds: their sum.
        share: of all layers' time.
    """

    name: str
    css: str
    layers: int
    microseconds: float
    share: float


def kind(op: str) -> tuple[str, str]:
    """Name and class of the kind of work of an engine's op."""
    for name, css, pattern in _KINDS:
        if re.search(pattern, op, re.IGNORECASE):
            return name, css
    return OTHER


def module(source: str) -> str:
    """The part of a layer's name that names its block: `blocks.3` of `/blocks.3/attn/qkv/MatMul`.

    It ends with the first number, so that the repeated blocks of a network stay apart; a name without
    a number gives its first part.
    """
    parts: list[str] = []
    for part in filter(None, re.split(r"[./:]+", source)):
        if not parts or part != parts[-1]:  # TorchScript's scopes repeat the container: /blocks/blocks.3
            parts.append(part)
    for index, part in enumerate(parts):
        if part.isdigit():
            return ".".join(parts[: index + 1])
    return parts[0] if parts else source


def by_module(layers: Sequence[Layer]) -> list[Group]:
    """The time of each module, in execution order; those below `SMALL_SHARE` are summed up at the end."""
    groups = _groups((module(layer["source"]), "", layer["microseconds"]) for layer in layers)
    small = [group for group in groups if group.share < SMALL_SHARE]
    if len(small) < 2:
        return groups
    rest = Group(
        f"{len(small)} smaller modules",
        "",
        sum(group.layers for group in small),
        sum(group.microseconds for group in small),
        sum(group.share for group in small),
    )
    return [*(group for group in groups if group.share >= SMALL_SHARE), rest]


def by_kind(layers: Sequence[Layer]) -> list[Group]:
    """The time of each kind of work, longest first."""
    groups = _groups((*kind(layer["op"]), layer["microseconds"]) for layer in layers)
    return sorted(groups, key=lambda group: -group.microseconds)


def _groups(parts: Iterable[tuple[str, str, float]]) -> list[Group]:
    found: dict[str, tuple[str, int, float]] = {}
    for name, css, time in parts:
        _, layers, total = found.get(name, (css, 0, 0.0))
        found[name] = (css, layers + 1, total + time)
    whole = sum(total for _, _, total in found.values())
    return [
        Group(name, css, layers, total, total / whole if whole else 0.0)
        for name, (css, layers, total) in found.items()
    ]
