"""The engine `openvino` of a decoder: one model for prompt and step, its caches its own state."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgec.core.decoder import CONTINUATION, DRAFT, ENCODER, IDS, Decoding
from edgec.runtime.engine import DESCRIPTION, EngineDescription, LayerTime
from edgec.runtime.engine_openvino import OpenVinoEngine, sources
from edgec.runtime.layer_times import summarize
from edgec.runtime.openvino_states import State, States

_WARMUP = 2
"""Steps that are not counted."""


class OpenVinoDecoder(OpenVinoEngine):
    """A decoder compiled by OpenVINO's CPU plugin.

    `run` is a generation that is told its tokens; `state` is what a generation that is not steps through.

    Args:
        folder: the engine's folder, with its `engine.json`.

    Attributes:
        decoding: what may be generated.
        draft: the same network in 8 bits, whose guesses this one checks; None where there is none.

    Raises:
        MissingExtraError: OpenVINO is not installed.
        IntegrityError: the description or the model cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        decoding = EngineDescription.read(folder).decoding
        assert decoding is not None
        self.decoding: Decoding = decoding
        self._encoder = OpenVinoEngine(folder / ENCODER) if decoding.source else None
        has_draft = (folder / DRAFT / DESCRIPTION).is_file()
        self.draft: OpenVinoDecoder | None = OpenVinoDecoder(folder / DRAFT) if has_draft else None
        super().__init__(folder)

    def state(self, source: Mapping[str, np.ndarray]) -> contextlib.AbstractContextManager[State]:
        """Empty caches, for as long as the block takes; nobody else has them.

        Args:
            source: what the encoder is to read, by name; empty where there is none.

        Raises:
            RequestError: the engine is closed.
        """
        return self._states.one(source)

    def close(self) -> None:
        """Free the compiled models, once the generations under way have ended."""
        super().close()
        if self._encoder is not None:
            self._encoder.close()
        if self.draft is not None:
            self.draft.close()

    def profile(self, feeds: Mapping[str, np.ndarray], runs: int = 20) -> list[LayerTime]:
        """The layers' times in one step behind the prompt, by OpenVINO's own counters; in execution order."""
        compiled = self._compile({"PERF_COUNT": True})
        state = State(self._core, compiled, self._inputs)
        state.empty()
        if self._encoder is not None:
            state.attend(self._encoder.run(feeds))
        state.feed(feeds[IDS])
        following = feeds[CONTINUATION][:, : runs + _WARMUP]
        calls: dict[str, list[float]] = {}
        ops: dict[str, str] = {}
        for step in range(following.shape[1]):
            state.feed(following[:, step : step + 1])
            for layer in state.counters():
                calls.setdefault(layer.node_name, []).append(layer.real_time.total_seconds() * 1e6)
                ops[layer.node_name] = f"{layer.node_type} {layer.exec_type}"
        return summarize(calls, ops, sources(compiled, self.description.layers), _WARMUP)

    def _pool(self) -> States:
        encode = None if self._encoder is None else self._encoder.run
        self._states = States(self._core, self._compiled, self._inputs, encode)
        return self._states
