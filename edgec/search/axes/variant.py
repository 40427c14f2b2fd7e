"""The axes variant and precision: which ways to lower and to compute are worth building.

What a precision gains in one variant, it about gains in another; what a variant is slower by in one
precision, it is about slower by in the next; and what a quantisation loses, it loses in every variant. So
candidates are predicted from those that were measured, and left out where nothing can come of them.
"""

from __future__ import annotations

import dataclasses

from edgec.judging.gates import GateResult
from edgec.search.trials import Trial
from edgec.targets.base import Candidate

SAME_SLOWER = 1.03
"""A variant this much slower than another of its engine is not tried in another scheme of the precision."""

VARIANT_SLOWER = 1.15
"""Likewise in the next lower precision."""

FAR_BEHIND = 1.3
"""An engine this much slower in fp32 than the fastest so far gets no second variant, and a quantisation that
is expected to be this much slower is not tried. So far behind have to be a plain candidate and what was timed
on a busy machine, to be dropped."""

_FP32 = ("fp32", "")


@dataclasses.dataclass
class Variant:
    """One engine's way to lower: the gate of its fp32 engine, why that was not built, and its latencies.

    Latencies are by precision and scheme: only like ones tell variants apart.
    """

    exact: GateResult | None = None
    skipped: str = ""
    latency: dict[tuple[str, str], float] = dataclasses.field(default_factory=dict)


class Variants:
    """What was measured of each variant and precision, and what that predicts of the others.

    Latencies are relative to the first engine that was timed: a chain of ratios of neighbours.
    """

    def __init__(self) -> None:
        self._variants: dict[tuple[str, str], Variant] = {}
        # By what was quantised how, in whatever variant: the drop that broke the budget.
        self._broken: dict[Candidate, float] = {}
        # By engine, precision and scheme: the least latency over that of fp32 in the same variant.
        self._gain: dict[tuple[str, str, str], float] = {}
        self._relative: dict[str, float] = {}

    def of(self, candidate: Candidate) -> Variant:
        """A candidate's variant."""
        return self._variants.setdefault((candidate.engine, candidate.form), Variant())

    def latency(self, trial: Trial) -> float:
        """A timed trial's latency over that of the first one."""
        return self._relative[trial.candidate.name]

    def learn_latency(self, trial: Trial, ratio: float, beside: Trial | None) -> None:
        """Remember a trial's latency over that of another; of the first one, over its own."""
        candidate = trial.candidate
        relative = ratio if beside is None else ratio * self.latency(beside)
        self._relative[candidate.name] = relative
        if candidate.kept:
            return
        variant = self.of(candidate)
        variant.latency[candidate.precision, candidate.scheme] = relative
        if _FP32 in variant.latency:
            gain = relative / variant.latency[_FP32]
            self._gain[_how(candidate)] = min(gain, self._gain.get(_how(candidate), gain))

    def learn_drop(self, candidate: Candidate, drop: float) -> None:
        """Remember that a quantisation breaks the budget."""
        if candidate.is_lossy and not candidate.kept:
            self._broken[dataclasses.replace(candidate, form="")] = drop

    def hopeless(self, candidate: Candidate, best: Trial | None) -> str:
        """Why a candidate need not be built; empty where it should be.

        Args:
            candidate: the candidate.
            best: the fastest so far that keeps the budget.
        """
        variant = self.of(candidate)
        if variant.exact is not None and not variant.exact.passed:
            return f"its form fails the fp32 gate: {variant.exact}"
        same = [other for (engine, _), other in self._variants.items() if engine == candidate.engine]
        if candidate.plain or candidate.kept:
            return ""
        if candidate.exact == candidate:
            return self._far_behind(same, best)
        if variant.skipped:
            return f"its form was not tried in fp32: {variant.skipped}"
        if broken := self._broken.get(dataclasses.replace(candidate, form="")):
            return f"the same quantisation loses {broken:.2%} in another form"
        gain = self._gain.get(_how(candidate))
        if candidate.is_lossy and best is not None and gain is not None and _FP32 in variant.latency:
            expected = gain * variant.latency[_FP32] / self.latency(best)
            if expected > FAR_BEHIND:
                return (
                    f"it takes {gain:.2f} times what fp32 takes in another form, so here about "
                    f"{expected:.2f} times the latency of the fastest so far"
                )
        for how, relative in reversed(variant.latency.items()):
            least = min(other.latency[how] for other in same if how in other.latency)
            precision = how[0]
            allowed = SAME_SLOWER if precision == candidate.precision else VARIANT_SLOWER
            if relative > allowed * least:
                return (
                    f"in {precision} its form takes {relative / least:.2f} times what another of the "
                    "engine takes"
                )
        return ""

    def _far_behind(self, variants: list[Variant], best: Trial | None) -> str:
        """Why no further variant of an engine is tried, by those so far; empty where one should be."""
        known = [variant.latency[_FP32] for variant in variants if _FP32 in variant.latency]
        if best is None or not known or min(known) <= FAR_BEHIND * self.latency(best):
            return ""
        behind = min(known) / self.latency(best)
        return f"another form of the engine takes {behind:.2f} times the latency of the fastest so far"


def _how(candidate: Candidate) -> tuple[str, str, str]:
    """What a candidate computes in, whatever its variant."""
    return candidate.engine, candidate.precision, candidate.scheme
