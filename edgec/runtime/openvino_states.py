"""Infer requests that hold a decoder's caches: each generation under way has one to itself."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from edgec.core.decoder import CONTINUATION, IDS, SCORES_FROM
from edgec.core.errors import JobError
from edgec.runtime.engine import closed
from edgec.runtime.openvino_core import said
from edgec.runtime.openvino_requests import plain_infer

Encode = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
"""What an encoder reads, by name, to what its decoder's steps read of it."""


class States:
    """A pool of states, safe from any number of threads: two generations never share one.

    A state is taken out of the pool for a whole generation, and made where none is idle.

    Args:
        core: what compiled the model.
        compiled: the compiled step.
        inputs: names of its inputs, in its order: `input_ids` first, then what an encoder made of its source,
            `beam_idx`, and `SCORES_FROM` where it has that.
        encode: of an encoder-decoder, runs the encoder.
    """

    def __init__(self, core: Any, compiled: Any, inputs: Sequence[str], encode: Encode | None = None) -> None:
        self._encode = encode
        self._made_of: tuple[Any, Any, Sequence[str]] | None = (core, compiled, inputs)
        self._idle = [State(core, compiled, inputs)]

    @contextlib.contextmanager
    def one(self, source: Mapping[str, np.ndarray]) -> Iterator[State]:
        """An empty state, for as long as the block takes.

        Args:
            source: what an encoder reads, by name; its steps then attend to that.

        Raises:
            RequestError: the pool is closed.
        """
        if self._made_of is None:
            raise closed()
        try:
            state = self._idle.pop()
        except IndexError:
            state = State(*self._made_of)
        try:
            state.empty()
            if self._encode is not None:
                state.attend(self._encode(source))
            yield state
        finally:
            self._idle.append(state)
            if self._made_of is None:
                self._idle.clear()

    def run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """A generation that is told its tokens: the prompt at once, then one step a token.

        Args:
            feeds: the prompt, (1, tokens), and what follows it, (1, steps), int64; what an encoder reads too.

        Returns:
            the scores of the token behind the prompt and behind every step, (1, 1 + steps, vocabulary).
        """
        with self.one(feeds) as state:
            found = [state.feed(feeds[IDS])]
            following = feeds[CONTINUATION]
            found += [state.feed(following[:, step : step + 1]) for step in range(following.shape[1])]
        return [np.stack(found)[None]]

    def close(self) -> None:
        """Free the idle states; a generation under way ends undisturbed, and frees its own."""
        self._made_of = None
        self._idle.clear()


class State:
    """One infer request with its caches; they grow in place, and never leave the engine.

    Args:
        core: what compiled the model.
        compiled: the compiled step.
        inputs: names of its inputs, in its order.

    Attributes:
        held: how many tokens the caches hold.
    """

    # Freed in this order: OpenVINO's objects do not all keep alive what they came from.
    __slots__ = (
        *("_infer", "_request", "_tensors", "_ids", "_from", "_attended", "_inputs", "held"),
        *("_compiled", "_core"),
    )

    def __init__(self, core: Any, compiled: Any, inputs: Sequence[str]) -> None:
        from openvino import Tensor

        self._core, self._compiled = core, compiled
        self._request, self._infer = compiled.create_infer_request(), plain_infer()
        # OpenVINO's kernel over a cache takes the order of beams, of which there is one.
        self._tensors: dict[int, Any] = {inputs.index("beam_idx"): Tensor(np.zeros(1, np.int32))}
        self._from = np.full(1, -1, np.int64)
        if SCORES_FROM in inputs:
            self._tensors[inputs.index(SCORES_FROM)] = Tensor(self._from, shared_memory=True)
        self.held = 0
        self._ids = np.zeros((1, 0), np.int64)
        self._inputs = tuple(inputs)
        self._attended: list[np.ndarray] = []

    def empty(self) -> None:
        """Forget all tokens."""
        self._request.reset_state()
        self.held = 0

    def keep(self, tokens: int) -> None:
        """Forget all but the first tokens; this copies what stays."""
        from openvino import Tensor

        for cache in self._request.query_state():
            cache.state = Tensor(np.ascontiguousarray(cache.state.data[:, :, :tokens]))
        self.held = tokens

    def attend(self, crosses: Mapping[str, np.ndarray]) -> None:
        """Let the steps read what an encoder made of a source, where it lies.

        Args:
            crosses: by the names of the step's inputs.
        """
        from openvino import Tensor

        names = self._inputs[1 : self._inputs.index("beam_idx")]
        arrays = [np.ascontiguousarray(crosses[name]) for name in names]
        tensors = [Tensor(array, shared_memory=True) for array in arrays]
        self._tensors |= dict(enumerate(tensors, start=1))
        self._attended = arrays

    def feed(self, ids: np.ndarray) -> np.ndarray:
        """Read tokens behind those that the caches hold.

        Args:
            ids: (1, tokens) int64, at least one.

        Returns:
            the scores of the token behind them, (vocabulary,) float32, in memory of its own.

        Raises:
            JobError: the engine fails, as where memory ends.
        """
        return self.feed_rows(ids, 1)[0]

    def feed_rows(self, ids: np.ndarray, rows: int) -> np.ndarray:
        """`feed`, with scores behind each of the last tokens, (rows, vocabulary).

        Args:
            ids: as `feed` takes them.
            rows: of how many; more than one only where the engine was built with `SCORES_FROM`.

        Raises:
            JobError: the engine fails, as where memory ends.
        """
        from openvino import Tensor

        if self._ids.shape != ids.shape:
            self._ids = np.zeros(ids.shape, np.int64)
            self._tensors[0] = Tensor(self._ids, shared_memory=True)
        np.copyto(self._ids, ids)
        self._from[0] = -rows
        try:
            results = self._infer(self._request, self._tensors, share_outputs=True, decode_strings=True)
        except RuntimeError as error:
            raise JobError(
                f"OpenVINO stopped in a step ({said(error)[-1]})", fix="generate less, or free some memory"
            ) from error
        self.held += ids.shape[1]
        scores = np.array(next(iter(results.values())))
        return scores.reshape(rows, -1)

    def counters(self) -> list[Any]:
        """OpenVINO's counters of the layers that the last step executed, of a model compiled with them."""
        return [layer for layer in self._request.get_profiling_info() if layer.status.name == "EXECUTED"]
