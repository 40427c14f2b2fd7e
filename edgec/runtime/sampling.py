"""Choosing tokens from their scores."""

from __future__ import annotations

import dataclasses

import numpy as np

from edgec.core.decoder import Decoding
from edgec.core.errors import RequestError


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the next token is chosen from the scores.

    Attributes:
        temperature: what scores are divided by before a token is drawn; 0 takes the highest one (greedy).
        top_k: among how many of the highest scores is drawn; 0 for all.
        seed: of the draws.
    """

    temperature: float = 0.0
    top_k: int = 0
    seed: int = 0

    def checked(self, decoding: Decoding) -> Sampling:
        """Itself.

        Raises:
            RequestError: a number is out of its range.
        """
        if not (np.isfinite(self.temperature) and self.temperature >= 0):
            raise RequestError(
                f"a temperature of {self.temperature} is not possible", fix="give 0 for greedy, or more"
            )
        check_whole(self.top_k, "top_k", 0, decoding.vocabulary)
        check_whole(self.seed, "seed", 0, 2**32 - 1)
        return self


class Chooser:
    """Chooses one token after another from their scores.

    Args:
        sampling: how.
    """

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._random = np.random.default_rng(sampling.seed)

    def choose(self, scores: np.ndarray) -> int:
        """The next token, of scores (vocabulary,)."""
        if self._sampling.temperature == 0:
            return int(np.argmax(scores))
        scores = scores.astype(np.float64)
        top_k = self._sampling.top_k
        if top_k:
            # Of equal scores at the edge all stay.
            scores = np.where(scores >= np.partition(scores, -top_k)[-top_k], scores, -np.inf)
        scaled = (scores - scores.max()) / self._sampling.temperature
        likely = np.exp(scaled)
        # By the cumulative sum: one uniform number a token, whatever the vocabulary.
        reached = np.cumsum(likely)
        return int(np.searchsorted(reached, self._random.random() * reached[-1], side="right"))


def check_whole(number: object, name: str, low: int, high: int) -> None:
    """See that something is a whole number of a range.

    Raises:
        RequestError: it is not.
    """
    is_whole = isinstance(number, (int, np.integer)) and not isinstance(number, bool)
    if not is_whole or not low <= int(number) <= high:  # type: ignore[call-overload]
        raise RequestError(f"{name} {number!r} is no whole number from {low} to {high}", fix=f"change {name}")
