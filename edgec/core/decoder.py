"""What a decoder is: a network that reads tokens and its own caches, and scores the token that follows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from edgec.core.graph import Arrays, DrawnInput, ExactSource, Graph, TensorSpec

IDS = "input_ids"
"""The tokens that are new to the caches, (1, new) int64."""

CONTINUATION = "continuation"
"""The tokens that a generation is fed one by one behind its prompt, (1, steps) int64."""

ENCODER = "encoder"
"""The folder of an encoder's engine inside its decoder's."""

DRAFT = "draft"
"""The folder of the engine that guesses for a decoder's, inside its own."""

SCORES_FROM = "scores_from"
"""Where scores begin among the new tokens, counted from their end, (1,) int64: -1 for the last one alone."""

LOGITS = "logits"
"""The scores of the next token: (1, 1, vocabulary) of a step, (1, 1 + steps, vocabulary) of a generation."""


@dataclasses.dataclass(frozen=True)
class Decoding:
    """What may be generated.

    Attributes:
        vocabulary: how many tokens there are.
        positions: the most tokens that a prompt and what follows it may have; 0 where there is no end.
        stop_tokens: tokens that end a text, as the model's own configuration has them.
        source: the name of what an encoder reads once, in front of all steps; empty where there is none.
    """

    vocabulary: int
    positions: int
    stop_tokens: tuple[int, ...] = ()
    source: str = ""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {**dataclasses.asdict(self), "stop_tokens": list(self.stop_tokens)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Decoding:
        """From what `to_json` returned.

        Raises:
            KeyError, TypeError, ValueError: it returned nothing like that.
        """
        source = fields.get("source", "")
        found = cls(fields["vocabulary"], fields["positions"], tuple(fields["stop_tokens"]), source)
        numbers = (found.vocabulary, found.positions, *found.stop_tokens)
        if (
            any(type(number) is not int or number < 0 for number in numbers)
            or not found.vocabulary
            or not isinstance(source, str)
        ):
            raise ValueError("what may be generated is not told in whole numbers")
        return found


@dataclasses.dataclass(frozen=True)
class Cache:
    """One tensor of keys or values that grows along its third axis, (1, heads, tokens, width) float32.

    Attributes:
        past: the input that the step graph reads it from.
        present: the output that the step graph gives it back in, with the new tokens behind.
        heads: heads of keys and values.
        width: of one head.
    """

    past: str
    present: str
    heads: int
    width: int


@dataclasses.dataclass(frozen=True)
class Decoder:
    """What a graph of one step stands for: whole generations, with the source's own beside them.

    Attributes:
        decoding: what may be generated.
        caches: what a step reads and gives back.
        inputs: what a generation is fed: a prompt and the tokens behind it.
        outputs: what comes of it: the scores at every step.
        generations: prompts with the source's own greedy tokens behind them.
        references: the scores of the source's own cached generation, one a generation.
        run: runs the source's cached generation.
        run_exact: runs it in float64; None where it cannot.
        drawn: what the prompts are.
        encoder: of an encoder-decoder, the graph from what it reads to `crosses`, by the names of these.
        crosses: the caches that a step reads as the encoder made them; they have no present.
    """

    decoding: Decoding
    caches: tuple[Cache, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    generations: list[Arrays]
    references: list[Arrays]
    run: Callable[[Mapping[str, np.ndarray]], Arrays]
    run_exact: ExactSource | None
    drawn: tuple[DrawnInput, ...]
    encoder: Graph | None = None
    crosses: tuple[Cache, ...] = ()
