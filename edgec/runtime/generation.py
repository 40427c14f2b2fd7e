"""Generating tokens: what is asked is checked first, then at each step a token is chosen from its scores."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator, Iterator, Sequence

import numpy as np

from edgec.core.decoder import Decoding
from edgec.core.errors import RequestError
from edgec.core.graph import Arrays, TensorSpec
from edgec.runtime.drafting import drafted_steps, pays
from edgec.runtime.engine_decoder import OpenVinoDecoder
from edgec.runtime.feeds import described, fitted
from edgec.runtime.openvino_states import State
from edgec.runtime.sampling import Chooser, Sampling, check_whole


class Tokens(Iterator[int]):
    """A generation, token by token: each `next` is one step of the engine.

    Its caches are its own, from the first token on until the last one, or until it is closed.

    Args:
        engine: the decoder.
        source: what an encoder reads, by name; empty where there is none.
        prompt: (1, tokens) int64.
        most: tokens to generate at most.
        sampling: how they are chosen.
        stops: tokens that end it; the one that does is given too.
    """

    def __init__(
        self,
        engine: OpenVinoDecoder,
        source: Arrays,
        prompt: np.ndarray,
        most: int,
        sampling: Sampling,
        stops: frozenset[int],
    ) -> None:
        steps = drafted_steps if pays(engine, prompt, most) else _steps
        self._steps = steps(engine, source, prompt, most, Chooser(sampling), stops)
        self._stepping = threading.Lock()

    def __next__(self) -> int:
        """The next token.

        Raises:
            StopIteration: there is none.
            RequestError: another thread is waiting for one, or the session is closed.
        """
        if not self._stepping.acquire(blocking=False):
            raise RequestError(
                "this generation is being stepped by another caller",
                fix="start one for each: their caches are apart",
            )
        try:
            return next(self._steps)
        finally:
            self._stepping.release()

    def close(self) -> None:
        """Give its caches back before its end."""
        with self._stepping:
            self._steps.close()


def _steps(
    engine: OpenVinoDecoder,
    source: Arrays,
    prompt: np.ndarray,
    most: int,
    chooser: Chooser,
    stops: frozenset[int],
) -> Generator[int]:
    with contextlib.ExitStack() as stack:
        state: State = stack.enter_context(engine.state(source))
        ids = prompt
        for _ in range(most):
            token = chooser.choose(state.feed(ids))
            yield token
            if token in stops:
                return
            ids = np.array([[token]])


def checked_prompt(ids: object, most: int, decoding: Decoding) -> np.ndarray:
    """A prompt as the engine takes it, (1, tokens) int64.

    Args:
        ids: token numbers, a sequence or an array of shape (tokens,) or (1, tokens).
        most: how many tokens are to follow.
        decoding: what may be generated.

    Raises:
        RequestError: it is none, or it and what follows are more than the model has positions for.
    """
    array = np.asarray(ids)
    if array.dtype.kind not in "iu" or array.ndim not in (1, 2) or array.size == 0:
        raise RequestError(
            f"the prompt is no sequence of token numbers: {array.dtype} {list(array.shape)}",
            fix="give whole numbers, at least one",
        )
    if array.ndim == 2 and array.shape[0] != 1:
        raise RequestError(
            f"{array.shape[0]} prompts at once, and a state holds one",
            fix="call generate for each; threads may",
        )
    check_whole(most, "max_new_tokens", 1, 2**31 - 1)
    _check_tokens(array.ravel().tolist(), "the prompt holds the token", decoding)
    given, room = array.size, decoding.positions
    if room and given > room:
        raise RequestError(
            f"the prompt has {given} tokens, and the model has {room} positions", fix="shorten the prompt"
        )
    # The last token that is generated is not read again.
    if room and given + most - 1 > room:
        raise RequestError(
            f"{given} tokens of prompt and {most} new ones are more than the model's {room} positions",
            fix=f"ask for max_new_tokens={room - given + 1}, or shorten the prompt",
        )
    return np.ascontiguousarray(array.reshape(1, -1), np.int64)


def checked_source(source: np.ndarray | None, decoding: Decoding, specs: Sequence[TensorSpec]) -> Arrays:
    """What an encoder reads, by name; empty where there is no encoder.

    Args:
        source: what the caller gave.
        decoding: what may be generated.
        specs: the session's inputs, the source among them.

    Raises:
        RequestError: it is missing, of another shape or dtype, or holds tokens that do not exist; or there is
            no encoder to read it.
    """
    if not decoding.source:
        if source is not None:
            raise RequestError("the bundle's network has no encoder to read a source", fix="leave source out")
        return {}
    spec = next(spec for spec in specs if spec.name == decoding.source)
    if source is None:
        raise RequestError(
            "the bundle's network generates from a source, and none is given",
            fix=f"give source=…, {described(spec)}",
        )
    read = fitted({spec.name: source}, [spec])
    if spec.semantics == "tokens":
        if not read[spec.name].size:
            raise RequestError("the source has no tokens", fix="give at least one")
        _check_tokens(read[spec.name].ravel().tolist(), "the source holds the token", decoding)
    return read


def checked_stops(stops: Sequence[int] | None, decoding: Decoding) -> frozenset[int]:
    """The tokens that end a generation; the model's own where none are named.

    Raises:
        RequestError: one does not exist.
    """
    if stops is None:
        return frozenset(decoding.stop_tokens)
    tokens = np.asarray(stops if len(stops) else np.zeros(0, np.int64))
    if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
        raise RequestError("stop tokens are not whole numbers", fix="give token numbers, as [2]")
    _check_tokens(tokens.tolist(), "there is no stop token", decoding)
    return frozenset(tokens.tolist())


def _check_tokens(tokens: list[int], what: str, decoding: Decoding) -> None:
    wrong = next((token for token in tokens if not 0 <= token < decoding.vocabulary), None)
    if wrong is not None:
        raise RequestError(f"{what} {wrong}", fix=f"tokens are from 0 to {decoding.vocabulary - 1}")
