"""Running a bundle: open it, check what it is fed, run it.

with edgec.load("deit.x86.edgec") as session:
    logits = session.run({"x": image})["logits"]
"""

from __future__ import annotations

import concurrent.futures
import html
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from edgec.core.bundle import Bundle
from edgec.core.errors import RequestError
from edgec.core.graph import Arrays, TensorSpec
from edgec.runtime import forks, machine
from edgec.runtime.engine import Engine, LayerTime
from edgec.runtime.engines import open_engine
from edgec.runtime.feeds import described, fitted, shown, wrong_names

if TYPE_CHECKING:
    from edgec.runtime.generation import Tokens


class Session:
    """A bundle that is open for running, from any number of threads of the process that opened it.

    A run reads its feeds and gives arrays of its own; those that are under way at once do not see each
    other. `close` may be called at any time: runs under way end undisturbed, later ones are refused. A
    forked child has none of the threads that its engine computes with, so it is refused too, and says so.

    Feeds are checked by name, shape and dtype. An array of another dtype is converted where the input's
    dtype can hold its kind of value: any float for a float input (float64 images are what numpy makes,
    and the model rounds them anyway), any integer that keeps its value for an integer input. Anything
    else is refused: a float fed as token numbers, or 0/1 integers where a boolean mask is asked for, is
    a mistake more often than not.

    Attributes:
        bundle: the opened bundle.
        engine: the engine inside.
    """

    def __init__(self, bundle: Bundle, engine: Engine) -> None:
        self.bundle = bundle
        self.engine: Engine = engine
        # What a good feed looks like, made ready once: a run then compares and goes.
        self._expected = tuple(
            (spec.name, np.dtype(spec.dtype), spec.shape if spec.is_fixed else None)
            for spec in bundle.io.inputs
        )
        forks.remember(self)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs, in the model's order."""
        return self.bundle.io.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs, in the model's order."""
        return self.bundle.io.outputs

    @property
    def manifest(self) -> dict[str, Any]:
        """The bundle's manifest."""
        return self.bundle.manifest

    def run(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        """Run once.

        Args:
            feeds: an array for every input, by name.

        Returns:
            the outputs by name, in arrays that no later run writes to.

        Raises:
            RequestError: an input is missing or unknown, or has another shape or dtype; or the session is
                closed, or another process opened it.
        """
        if len(feeds) != len(self._expected):
            raise wrong_names(feeds, self.inputs)
        for name, dtype, shape in self._expected:
            array = feeds.get(name)
            if type(array) is not np.ndarray or array.dtype != dtype or array.shape != shape:
                return self.engine.run(fitted(feeds, self.inputs))
        return self.engine.run(feeds)

    def __call__(self, *arrays: np.ndarray, **named: np.ndarray) -> Any:
        """Run once on arrays in the model's order, or by name: `session(image)`, `session(ids=…, mask=…)`.

        Returns:
            the output, or the outputs by name where there are several.

        Raises:
            RequestError: as for `run`.
        """
        if len(arrays) > len(self.inputs):
            raise RequestError(
                f"{len(arrays)} arrays are more than the model's {len(self.inputs)} inputs",
                fix="feed " + ", ".join(spec.name for spec in self.inputs),
            )
        placed = {spec.name: array for spec, array in zip(self.inputs, arrays, strict=False)}
        if twice := sorted(set(placed) & set(named)):
            raise RequestError(f"input {twice[0]!r} is given twice", fix="give it by place or by name")
        outputs = self.run({**placed, **named})
        return next(iter(outputs.values())) if len(outputs) == 1 else outputs

    async def run_async(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        """`run` in a thread of the event loop's, which goes on meanwhile."""
        import asyncio

        return await asyncio.to_thread(self.run, feeds)

    def map(self, batches: Iterable[Mapping[str, np.ndarray]]) -> Iterator[Arrays]:
        """Run on one set of feeds after another, as `run` does; the outputs come in the same order.

        While one runs the next is made: feeds are drawn from `batches` one ahead, and no further.
        """
        with concurrent.futures.ThreadPoolExecutor(max_workers=1) as thread:
            under_way: concurrent.futures.Future[Arrays] | None = None
            for feeds in batches:
                before, under_way = under_way, thread.submit(self.run, feeds)
                if before is not None:
                    yield before.result()
            if under_way is not None:
                yield under_way.result()

    def generate(
        self,
        ids: Sequence[int] | np.ndarray,
        max_new_tokens: int,
        *,
        temperature: float = 0.0,
        top_k: int = 0,
        seed: int = 0,
        stop_tokens: Sequence[int] | None = None,
        source: np.ndarray | None = None,
    ) -> np.ndarray:
        """What follows a prompt, of a decoder.

        Generations that are under way at once, in threads or as `stream`s, have caches of their own.

        Args:
            ids: the prompt's tokens, (tokens,) or (1, tokens).
            max_new_tokens: how many to generate at most.
            temperature: what scores are divided by before a token is drawn; 0 takes the highest (greedy).
            top_k: among how many of the highest scores is drawn; 0 for all.
            seed: of the draws.
            stop_tokens: what ends it, the last token given; the model's own where not given.
            source: of an encoder-decoder, what the encoder reads: `source_ids` or `input_features`, as
                `inputs` has them.

        Returns:
            the new tokens, (tokens,) int64.

        Raises:
            RequestError: the bundle holds no decoder; the prompt, or a stop token, holds a token that does
                not exist; or the prompt and what is to follow are more than the model has positions for.
        """
        tokens = self.stream(
            ids,
            max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            seed=seed,
            stop_tokens=stop_tokens,
            source=source,
        )
        return np.fromiter(tokens, np.int64)

    def stream(
        self,
        ids: Sequence[int] | np.ndarray,
        max_new_tokens: int,
        *,
        temperature: float = 0.0,
        top_k: int = 0,
        seed: int = 0,
        stop_tokens: Sequence[int] | None = None,
        source: np.ndarray | None = None,
    ) -> Tokens:
        """`generate`, token by token: each is there as soon as it is chosen; arguments as it takes them.

        Raises:
            RequestError: as for `generate`, before the first step.
        """
        from edgec.runtime.engine_decoder import OpenVinoDecoder
        from edgec.runtime.generation import Sampling, Tokens, checked_prompt, checked_source, checked_stops

        if not isinstance(self.engine, OpenVinoDecoder):
            raise RequestError(
                "the bundle's network generates nothing: it is no decoder with caches",
                where=str(self.bundle.path),
                fix="compile hf:DIR of a causal language model for x86",
            )
        decoding = self.engine.decoding
        prompt = checked_prompt(ids, max_new_tokens, decoding)
        sampling = Sampling(temperature, top_k, seed).checked(decoding)
        stops = checked_stops(stop_tokens, decoding)
        read = checked_source(source, decoding, self.inputs)
        return Tokens(self.engine, read, prompt, max_new_tokens, sampling, stops)

    def __repr__(self) -> str:
        engine = self.engine.description
        sides = [", ".join(map(described, side)) for side in (self.inputs, self.outputs)]
        return (
            f"Session({self.bundle.path.name!r}, {engine.kind} {engine.precision}: {sides[0]} -> {sides[1]})"
        )

    def _repr_html_(self) -> str:
        """The same as a table, for notebooks."""
        rows = [("input", spec) for spec in self.inputs] + [("output", spec) for spec in self.outputs]
        engine = self.engine.description
        title = html.escape(f"{self.bundle.path.name}: {engine.kind} {engine.precision}")
        cells = "".join(
            f"<tr><td>{side}</td><td>{html.escape(spec.name)}</td><td>{html.escape(spec.dtype)}</td>"
            f"<td>{html.escape(shown(spec.shape))}</td></tr>"
            for side, spec in rows
        )
        return f"<table><caption>{title}</caption>{cells}</table>"

    def profile(self, feeds: Mapping[str, np.ndarray], runs: int = 20) -> list[LayerTime]:
        """Time every layer with the engine's own timers, under the user's layer names.

        Args:
            feeds: as for `run`.
            runs: runs that count.
        """
        return self.engine.profile(fitted(feeds, self.inputs), runs)

    def close(self) -> None:
        """Free the engine; a closed session runs no more."""
        self.engine.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def load(path: str | Path, *, check: bool = True, key: str | Path | None = None) -> Session:
    """Open a bundle for running, once all that can be seen without its engine is as it must be.

    Args:
        path: the bundle's folder or its zip file.
        check: compare every file with its recorded sha256 first.
        key: a public key in PEM, by whose owner the bundle must be signed.

    Raises:
        RequestError: there is no bundle at the path, or the key is none.
        IntegrityError: a file of it is missing, was added or differs from its record or from what was signed.
        MissingExtraError: its engine's package is not installed.
        JobError: that is older than the bundle's, or this processor lacks what its numbers rest on.
    """
    bundle = Bundle.open(path, check=check, key=key)
    machine.check(bundle)
    return Session(bundle, open_engine(bundle.engine_folder))
