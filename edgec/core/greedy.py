"""Greedy tokens, an engine's beside the source's: equal, nearly tied, or others."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgec.core.decoder import LOGITS


@dataclasses.dataclass(frozen=True)
class Greedy:
    """Whether an engine chooses the tokens that the source chooses, told the source's at every step.

    Where all are equal, a generation that is not told its tokens is the source's too.

    Attributes:
        generations: how many there were.
        steps: tokens chosen in all of them.
        equal: those that are the source's.
        near_ties: others, of which the source's own score is lower by no more than the tolerance.
        first: where the first token differs that is no near tie; empty where none does.
        alone: generations that are the source's to the last token, or up to a near tie, when the engine is
            told nothing but the prompt; None where none was run so.
    """

    generations: int
    steps: int
    equal: int
    near_ties: int
    first: str = ""
    alone: int | None = None

    @property
    def others(self) -> int:
        """Tokens that are neither the source's nor nearly tied with it."""
        return self.steps - self.equal - self.near_ties

    def to_json(self) -> dict[str, Any]:
        """As the report and `--json` print it."""
        return {**dataclasses.asdict(self), "others": self.others}

    def __str__(self) -> str:
        ties = f", {self.near_ties} nearly tied in the source" if self.near_ties else ""
        first = f", {self.others} others (first {self.first})" if self.others else ""
        alone = (
            "" if self.alone is None else f"; {self.alone} of {self.generations} generations by themselves"
        )
        return f"{self.equal} of {self.steps} greedy tokens as the source's{ties}{first}{alone}"


def compare_greedy(
    references: Sequence[Mapping[str, np.ndarray]],
    found: Sequence[Mapping[str, np.ndarray]],
    tolerance: float,
) -> Greedy:
    """Compare the tokens that scores choose.

    Args:
        references: the source's scores, (1, steps, vocabulary) under `logits`, one a generation.
        found: the engine's, likewise.
        tolerance: in spreads of the source's scores at that step: two scores that are nearer may change
            places, one down and one up by as much as the gate allows each.
    """
    steps = equal = near = 0
    first = ""
    for index, (reference, actual) in enumerate(zip(references, found, strict=True)):
        for step, (wanted, given) in enumerate(zip(reference[LOGITS][0], actual[LOGITS][0], strict=True)):
            best, chosen = int(np.argmax(wanted)), int(np.argmax(given))
            steps += 1
            if chosen == best:
                equal += 1
            elif is_near_tie(wanted, chosen, tolerance):
                near += 1
            elif not first:
                first = f"in generation {index + 1} at step {step + 1}: {chosen}, not {best}"
    return Greedy(len(references), steps, equal, near, first)


def is_near_tie(scores: np.ndarray, chosen: int, tolerance: float) -> bool:
    """Whether a token may have won by rounding alone.

    Args:
        scores: the source's, (vocabulary,).
        chosen: the token.
        tolerance: as `compare_greedy` takes it.
    """
    return float(scores.max()) - float(scores[chosen]) <= 2.0 * tolerance * float(np.std(scores))


def follows(reference: Mapping[str, np.ndarray], tokens: Sequence[int], tolerance: float) -> bool:
    """Whether a generation that was told its prompt alone is the source's, to its end or up to a near tie.

    Behind a near tie the two read other texts, and there is nothing to compare.

    Args:
        reference: the source's scores, (1, steps, vocabulary) under `logits`.
        tokens: what the engine generated, one a step.
        tolerance: as `compare_greedy` takes it.
    """
    scores = reference[LOGITS][0]
    if len(tokens) != len(scores):
        return False
    for wanted, chosen in zip(scores, tokens, strict=True):
        if chosen != int(np.argmax(wanted)):
            return is_near_tie(wanted, chosen, tolerance)
    return True
