"""Generating with a draft: the same network in 8 bits guesses, the engine checks several tokens at once.

Speculative decoding (Leviathan et al., 2023, arXiv 2211.17192) in its exact form: a guess stays where it is
the token that the engine itself chooses from its own scores. So the tokens are those without a draft.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator

import numpy as np

from edgec.core.graph import Arrays
from edgec.runtime.engine_decoder import OpenVinoDecoder
from edgec.runtime.openvino_states import State
from edgec.runtime.sampling import Chooser

_MOST = 6
"""Guesses at once: beyond, checking costs more than reading the weights."""

_PAUSE = 32
"""Tokens without guesses after they were mostly wrong."""

_LEAST = 8
"""Tokens from which a draft is worth reading a prompt for; and one for each eight tokens of the prompt."""


class Guesses:
    """How many tokens are guessed at once, by how many were right lately."""

    def __init__(self) -> None:
        self._right, self._pause = 0.8, 0

    def ask(self) -> int:
        """How many to guess now."""
        if self._pause:
            self._pause -= 1
            return 0
        return _MOST if self._right > 0.85 else 4 if self._right > 0.7 else 2

    def told(self, right: int, guessed: int) -> None:
        """Of so many guesses so many were right."""
        self._right = 0.7 * self._right + 0.3 * right / guessed
        if self._right < 0.4:
            self._right, self._pause = 0.5, _PAUSE


def pays(engine: OpenVinoDecoder, prompt: np.ndarray, most: int) -> bool:
    """Whether there is a draft, and enough to generate that reading the prompt once more pays."""
    return engine.draft is not None and most >= _LEAST + prompt.size // 8


def drafted_steps(
    engine: OpenVinoDecoder,
    source: Arrays,
    prompt: np.ndarray,
    most: int,
    chooser: Chooser,
    stops: frozenset[int],
) -> Generator[int]:
    """The tokens behind a prompt; arguments as `Tokens` takes them."""
    assert engine.draft is not None
    with contextlib.ExitStack() as stack:
        state: State = stack.enter_context(engine.state(source))
        draft: State = stack.enter_context(engine.draft.state(source))
        guesses, left = Guesses(), most - 1
        token = chooser.choose(state.feed(prompt))
        yield token
        # What the draft has not read of the text.
        unread = [*prompt.ravel().tolist(), token]
        while left and token not in stops:
            asked = min(guesses.ask(), left - 1)
            guessed, read = [], draft.held + len(unread)
            for _ in range(asked):
                guessed.append(int(np.argmax(draft.feed(np.array([unread])))))
                unread = [guessed[-1]]
            held = state.held
            rows = state.feed_rows(np.array([[token, *guessed]]), 1 + asked)
            right = 0
            for scores in rows:
                token = chooser.choose(scores)
                left -= 1
                yield token
                if token in stops or right == asked or token != guessed[right]:
                    break
                right += 1
            if not asked:
                unread.append(token)
                continue
            guesses.told(right, asked)
            if right == asked:
                # The last guess was made and not read.
                unread = [guessed[-1], token]
                continue
            unread = [token]
            state.keep(held + 1 + right)
            if right < asked - 1:
                draft.keep(read + right)
