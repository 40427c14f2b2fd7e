"""The bench: the only thing in a search that builds, gates, times, scores and closes engines."""

from __future__ import annotations

import contextlib
import functools
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edgec.core.disturbance import Patience
from edgec.core.graph import Arrays, Graph
from edgec.core.progress import Progress
from edgec.core.timing import Latency, measure
from edgec.judging.budget import Judge
from edgec.judging.gates import GateResult
from edgec.runtime.engine import Engine
from edgec.search.trials import Trial, build
from edgec.targets.base import Target

BLOCKS = 3
BLOCK_SECONDS = 0.12

DEGRADATION_SAMPLES = 64
"""Samples that tell how far outputs move: a mean over smooth distances is steady on few."""


class Bench:
    """Tries engines beside one that it keeps open, the reference.

    Args:
        target: builds and opens.
        feeds: the sample that engines are timed on.
        scratch: an existing folder for the engines.
        progress: told each step.
        judge: the data that a search may look at; None where nothing is scored.
        patience: how long measuring may wait for a quiet machine, all in all.
    """

    def __init__(
        self,
        target: Target,
        feeds: Arrays,
        scratch: Path,
        progress: Progress,
        judge: Judge | None,
        patience: Patience | None = None,
    ) -> None:
        self.target = target
        self._feeds = feeds
        self._scratch = scratch
        self.progress = progress
        self._judge = judge
        self.patience = Patience() if patience is None else patience
        self._reference: Engine | None = None
        self._folders = 0

    def new_folder(self) -> Path:
        """A path for an engine; nothing is there yet, also where another bench used the same scratch."""
        while True:
            folder = self._scratch / f"candidate-{self._folders}"
            self._folders += 1
            if not folder.exists():
                return folder

    def build(self, graph: Graph, trial: Trial, *, exact: GateResult | None = None) -> None:
        """Build a trial's engine and gate it; failures are told in `trial.why`.

        Args:
            graph: the neutral graph, with its references.
            trial: its gates and `why` are set.
            exact: the gate of the same engine and form in fp32, where it was passed before.
        """
        self.progress.step(f"building {trial.candidate.name}")
        build(self.target, graph, trial, exact=exact)

    def build_ungated(self, graph: Graph, trial: Trial) -> None:
        """Build an engine that only tells latency and degradation; what ships is gated.

        Raises:
            EdgecError: it cannot be built.
        """
        trial.folder.mkdir()
        self.target.build(self.target.lower(graph, trial.candidate), trial.candidate, trial.folder)

    @contextlib.contextmanager
    def opened(self, trial: Trial) -> Iterator[Engine]:
        """The engine of a trial, closed with the block."""
        engine = self.target.open(trial.folder)
        try:
            yield engine
        finally:
            engine.close()

    def time(self, trial: Trial, engine: Engine) -> float | None:
        """Measure an engine beside the reference; `trial.latency` is set.

        Returns:
            its latency over the reference's; None where there is no reference yet.
        """
        calls = {"it": functools.partial(engine.run, self._feeds)}
        if self._reference is not None:
            calls["reference"] = functools.partial(self._reference.run, self._feeds)
        found = measure(calls, blocks=BLOCKS, block_seconds=BLOCK_SECONDS, patience=self.patience)
        trial.latency = found["it"]
        if self._reference is None:
            return None
        return undisturbed(found["it"]) / undisturbed(found["reference"])

    def beside(self, trial: Trial, other: Trial) -> tuple[Latency, Latency]:
        """The latencies of two engines that were built, measured side by side in as many blocks as ship."""
        with self.opened(trial) as one, self.opened(other) as another:
            calls = {
                "it": functools.partial(one.run, self._feeds),
                "other": functools.partial(another.run, self._feeds),
            }
            found = measure(calls, patience=self.patience)
        return found["it"], found["other"]

    def score(self, trial: Trial, engine: Engine) -> None:
        """Set `trial.scores` on all of the search's data."""
        assert self._judge is not None
        trial.scores = self._judge.scores(engine.run)

    def degrade(self, trial: Trial, engine: Engine) -> None:
        """Set `trial.degradation` on some of the search's data."""
        few = self._few
        trial.degradation = few.damage(few.outputs(engine.run))

    @functools.cached_property
    def _few(self) -> Judge:
        assert self._judge is not None
        return self._judge.first(DEGRADATION_SAMPLES)

    def refer_to(self, trial: Trial) -> None:
        """Keep a trial's engine open from now on, to measure others beside it."""
        self.close()
        self._reference = self.target.open(trial.folder)

    def discard(self, trial: Trial) -> None:
        """Remove what a trial built."""
        shutil.rmtree(trial.folder, ignore_errors=True)

    def close(self) -> None:
        """Close the reference."""
        if self._reference is not None:
            self._reference.close()
            self._reference = None


def undisturbed(latency: Latency) -> float:
    """The lower fifth of the calls, milliseconds: whatever else the machine does only adds to the others."""
    return float(np.percentile(latency.samples, 20))
