"""The catalogue: what catalogue.toml says, one entry a model."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import tomllib
from importlib import resources

from edgec.core.errors import RequestError


@dataclasses.dataclass(frozen=True)
class Entry:
    """One model of the zoo.

    Attributes:
        name: its name in the zoo.
        source: `timm:NAME`, or `package:NAME` for a folder of this room.
        family: the architecture's name in the literature.
        description: what it is, a line.
        task: `image classification` or `sentence embedding`.
        attention: softmax attentions over tokens that one forward pass computes; all of them should fuse.
        weights: whose weights these are.
        licence: of the weights.
        channel_attention: attentions over channels.
        linear_attention: attentions without a softmax.
        talking_heads: softmax attentions that mix their heads' logits and probabilities; they cannot fuse.
    """

    name: str
    source: str
    family: str
    description: str
    task: str
    attention: int
    weights: str
    licence: str
    channel_attention: int = 0
    linear_attention: int = 0
    talking_heads: int = 0

    @property
    def timm_name(self) -> str | None:
        """The model's name in timm, None for a model of this room."""
        scheme, _, name = self.source.partition(":")
        return name if scheme == "timm" else None


@functools.cache
def _entries() -> dict[str, Entry]:
    text = resources.files("edgec.zoo").joinpath("catalogue.toml").read_text("utf-8")
    return {name: Entry(name=name, **fields) for name, fields in tomllib.loads(text).items()}


def names() -> list[str]:
    """Every model's name, in the catalogue's order."""
    return list(_entries())


def entry(name: str) -> Entry:
    """One model.

    Raises:
        RequestError: the zoo has no such model; says the nearest.
    """
    found = _entries().get(name)
    if found is not None:
        return found
    by_source = {known.timm_name: known.name for known in _entries().values() if known.timm_name}
    near = difflib.get_close_matches(name.lower(), [*names(), *by_source], n=1, cutoff=0.5)
    raise RequestError(
        f"the zoo has no model {name!r}",
        where=f"zoo:{name}",
        fix=f"did you mean zoo:{by_source.get(near[0], near[0])}?" if near else "see edgec zoo",
    )
