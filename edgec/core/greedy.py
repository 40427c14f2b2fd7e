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
    """

    generations: int
    steps: int
    equal: int
    near_ties: int
    first: str = ""

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
        return f"{self.equal} of {self.steps} greedy tokens as the source's{ties}{first}"


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
            elif float(wanted[best]) - float(wanted[chosen]) <= 2.0 * tolerance * float(np.std(wanted)):
                near += 1
            elif not first:
                first = f"in generation {index + 1} at step {step + 1}: {chosen}, not {best}"
    return Greedy(len(references), steps, equal, near, first)
