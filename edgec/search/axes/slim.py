"""The axis slim: which units of a network become narrower, or leave.

Every unit is a place, the members that stay its levels. What a level saves is told by a latency table of the
network's parts, corrected by what engines with one kind of unit cut everywhere really took, or by its share
of the multiply-accumulates where there is no table. What it degrades is what it loses of the residual stream
behind it, after healing, scaled kind by kind to what those engines lost. A whole branch that leaves is
another level of the same place as its width.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edgec.core.errors import EdgecError, JobError, RequestError
from edgec.core.graph import Arrays, Graph
from edgec.core.progress import Progress
from edgec.devices.latency_tables import LatencyTable
from edgec.passes.inspection import inspect_model
from edgec.passes.manager import PassReport, Pipeline
from edgec.passes.slim.cut import CutUnits
from edgec.passes.slim.heal import Slimmer
from edgec.passes.slim.plan import SlimPlan, share_kept
from edgec.passes.slim.units import Unit
from edgec.search.allocation import Level, Prediction, greedy
from edgec.search.axes.axis import Probing
from edgec.search.deadline import Deadline
from edgec.search.plan import Plan, Setting
from edgec.search.trials import Trial
from edgec.targets.timers import timer_for
from edgec.targets.unit_latency import latency_table

WIDTHS = ("mlp", "qk_width", "v_width", "heads", "channels")
"""Kinds of units that a search narrows."""

WHOLES = {"attention": "heads", "mlp_block": "mlp"}
"""Kinds of units that a search takes away whole, and the kind whose measurements tell what that saves."""

SHARES = (0.75, 0.5, 0.375, 0.25, 0.125)
"""Shares of a unit's members that a level keeps."""

PROBED = (0.5, 0.25)
"""Shares that are kept of every unit of a kind where the kind is tried."""

TIMING = 0.4
"""Share of the axis' time after which no latency table is begun."""

ROUND = 16
"""Widths are multiples of this where a unit has several times as many: engines pad to their vectors."""

HEALED = 4
"""Healed networks that are kept: combinations with other axes build on the same one again."""

LEAST = 1e-9
"""Degradations below this are rounding."""


@dataclasses.dataclass(frozen=True)
class _Scale:
    """What a kind's levels are multiplied by: work to time, the stream's degradation to the outputs'."""

    gain: float
    degradation: float


class Slim:
    """The units of a graph that can become narrower.

    Args:
        neutral: the neutral graph.
        progress: told each step.
        fitting: inputs that what is left is fitted to.

    Raises:
        RequestError: there are none.
        JobError: the graph has no unit; lists the reasons.
    """

    name = "slim"

    def __init__(self, neutral: Graph, progress: Progress, fitting: Sequence[Arrays]) -> None:
        self._neutral = neutral
        self._progress = progress
        self._slimmer = Slimmer(dataclasses.replace(neutral, calibration=tuple(fitting)), progress)
        self.units: Sequence[Unit] = self._slimmer.units
        if not self.units:
            reasons = "; ".join(
                f"{miss.source} (node {miss.node}): {miss.reason}" for miss in self._slimmer.log.misses
            )
            raise JobError(
                f"no unit of the network can be cut ({reasons or 'it has no linear layers'})",
                fix="leave --slim off",
            )
        self._by_name = {unit.name: unit for unit in self.units}
        self._macs = max(1, inspect_model(neutral.model).macs)
        self._saved: dict[str, float] = {}
        self._scales: dict[str, _Scale] = {}
        self._table: LatencyTable | None = None
        self._timed = False
        # By setting, the last used at the end.
        self._healed: dict[str, tuple[Graph, tuple[PassReport, ...]]] = {}
        self.probes: list[Trial] = []

    def read(self, text: str) -> SlimPlan:
        """The setting that `--slim` names.

        Raises:
            RequestError: it is none of this graph.
        """
        return SlimPlan.parse(text, self.units)

    def probe(self, bench: Probing, deadline: Deadline) -> None:
        """Try each kind of unit, cut everywhere alike, and time the network's parts at several sizes.

        Raises:
            JobError: no unit is of a kind that a search narrows.
        """
        kinds = [kind for kind in WIDTHS if any(unit.kind == kind for unit in self.units)]
        for share in PROBED:
            for kind in kinds:
                if kind in self._scales and deadline.past():
                    return
                self._probe_kind(kind, share, bench)
                if not self._timed and self.probes and not deadline.past(TIMING):
                    self._time_parts(bench)
        if not self._scales:
            raise JobError("no unit of the network can be cut and healed", fix="leave --slim off")

    def _probe_kind(self, kind: str, share: float, bench: Probing) -> None:
        units = [unit for unit in self.units if unit.kind == kind]
        setting = SlimPlan({unit.name: self._rounded(unit, share) for unit in units})
        try:
            trial = bench.probe(Plan.of(slim=setting))
        except EdgecError as error:
            self._progress.note(f"slim: {kind}: {error}")
            return
        self.probes.append(trial)
        local = sum(self._local(self._by_name[name], kept) for name, kept in setting.kept.items())
        degradation = max(LEAST, trial.degradation - bench.baseline.degradation)
        found = _Scale(
            max(0.0, 1.0 - trial.ratio) / max(LEAST, 1.0 - trial.work), degradation / max(LEAST, local)
        )
        known = self._scales.get(kind)
        if known is not None:
            found = _Scale((known.gain + found.gain) / 2, math.sqrt(known.degradation * found.degradation))
        self._scales[kind] = found
        self._learn(trial)

    def _time_parts(self, bench: Probing) -> None:
        """Make the latency table in the engine that the probes were built in."""
        self._timed = True
        timed = [unit for unit in self.units if unit.kind in (*WIDTHS, *WHOLES)]
        candidate = self.probes[-1].candidate
        try:
            timer = timer_for(bench.target, candidate)
            self._table = latency_table(self._neutral, timed, timer, progress=self._progress)
        except EdgecError as error:
            self._progress.note(f"slim: no latency table, savings are told by work: {error}")
            return
        for trial in self.probes:
            self._learn(trial)

    def _learn(self, trial: Trial) -> None:
        """Let the table know what a cut network really took."""
        setting = trial.plan.on(self.name)
        if self._table is not None and isinstance(setting, SlimPlan) and self._is_timed(setting.kept):
            self._table.correct(setting.kept, trial.ratio, 1.0)

    def _is_timed(self, kept: Mapping[str, int]) -> bool:
        table = self._table
        return table is not None and all(name in table.sizes and name not in table.misses for name in kept)

    def predictions(self) -> list[Prediction]:
        """The greedy settings, from one unit's first level to all at their last, and the uniform ones."""
        places: dict[str, list[Level[tuple[str, int]]]] = {}
        for unit in self.units:
            kind = WHOLES.get(unit.kind, unit.kind)
            scale = self._scales.get(kind)
            if scale is None:
                continue
            place = f"{kind}:{unit.layer}"
            for kept in self._levels(unit):
                gain = 1.0 - self._ratio({unit.name: kept})
                cost = scale.degradation * self._local(unit, kept)
                places.setdefault(place, []).append(Level((unit.name, kept), gain, max(LEAST, cost)))
        return [self._predicted(setting) for setting in self._settings(places)]

    def _settings(self, places: Mapping[str, Sequence[Level[tuple[str, int]]]]) -> Iterator[SlimPlan]:
        seen: set[str] = set()
        found = [self._without_twice(dict(setting.values())) for setting in greedy(places)]
        for share in SHARES:
            for kinds in (*((kind,) for kind in WIDTHS), WIDTHS):
                units = [unit for unit in self.units if unit.kind in kinds and unit.kind in self._scales]
                found.append(SlimPlan({unit.name: self._rounded(unit, share) for unit in units}))
        for setting in found:
            if setting.kept and setting.name not in seen:
                seen.add(setting.name)
                yield setting

    def _without_twice(self, kept: Mapping[str, int]) -> SlimPlan:
        """A plan in which nothing is narrowed that leaves whole."""
        gone = {self._by_name[name].layer for name, count in kept.items() if not count}
        return SlimPlan(
            {
                name: count
                for name, count in kept.items()
                if not count or self._by_name[name].layer not in gone
            }
        )

    def _predicted(self, setting: SlimPlan) -> Prediction:
        degradation = 0.0
        for name, kept in setting.kept.items():
            unit = self._by_name[name]
            scale = self._scales[WHOLES.get(unit.kind, unit.kind)]
            degradation += scale.degradation * self._local(unit, kept)
        places = frozenset(("slim", name, kept) for name, kept in setting.kept.items())
        return Prediction(Plan.of(slim=setting), self._ratio(setting.kept), degradation, places)

    def _ratio(self, kept: Mapping[str, int]) -> float:
        """The latency with so many members kept over that of the whole network."""
        if self._table is not None and self._is_timed(kept):
            return self._table.predict(kept) / self._table.base
        saved = 0.0
        for name, count in kept.items():
            unit = self._by_name[name]
            saved += self._scales[WHOLES.get(unit.kind, unit.kind)].gain * self._spared(unit, count)
        return max(0.02, 1.0 - saved)

    def _levels(self, unit: Unit) -> list[int]:
        """How many members a search may keep of a unit: sizes that the engine runs badly are left out."""
        if unit.kind in WHOLES:
            return [0]
        levels = {self._rounded(unit, share) for share in SHARES}
        if self._table is not None and self._is_timed({unit.name: unit.size}):
            levels = {kept for kept in self._table.levels(unit.name) if kept >= unit.step}
        return sorted(levels - {unit.size})

    def _rounded(self, unit: Unit, share: float) -> int:
        step = math.lcm(unit.step, ROUND)
        if unit.kind == "heads" or unit.size < 4 * step:
            return share_kept(unit, share)
        return min(unit.size, max(step, round(unit.size * share / step) * step))

    def _local(self, unit: Unit, kept: int) -> float:
        """The share of the residual stream's variance that a level loses."""
        return self._slimmer.degradation(unit, kept) ** 2

    def _spared(self, unit: Unit, kept: int) -> float:
        """The share of all multiply-accumulates that a level spares."""
        if unit.name not in self._saved:
            least = 0 if unit.branches else share_kept(unit, 0.5)
            model = self._neutral.model.clone()
            Pipeline([CutUnits(self.units, {unit.name: range(least)})]).run(model)
            spared = 1.0 - inspect_model(model).macs / self._macs
            self._saved[unit.name] = spared * unit.size / max(1, unit.size - least)
        return self._saved[unit.name] * (1.0 - kept / unit.size)

    def apply(self, graph: Graph, setting: Setting) -> tuple[Graph, tuple[PassReport, ...]]:
        """The network cut and healed.

        Args:
            graph: the neutral graph that the axis was made of.
            setting: of this axis.

        Raises:
            RequestError: the setting is of another graph.
        """
        if graph is not self._neutral or not isinstance(setting, SlimPlan):
            raise RequestError("what is slimmed is the neutral graph", fix="apply --slim first")
        healed = self._healed.pop(setting.name, None) or self._slimmer.apply(setting)
        self._healed[setting.name] = healed
        if len(self._healed) > HEALED:
            del self._healed[next(iter(self._healed))]
        slimmed, reports = healed
        return dataclasses.replace(slimmed.clone(), calibration=graph.calibration), reports

    def describe(self, setting: Setting | None, work: float) -> dict[str, Any]:
        """What the report says of a setting, unit by unit under the source's layers.

        Args:
            setting: of this axis; None for nothing.
            work: multiply-accumulates that are left, over those without.
        """
        kept = setting.kept if isinstance(setting, SlimPlan) else {}
        return {
            "name": "none" if not kept else SlimPlan(kept).name,
            "work": work,
            "units": [
                {
                    "unit": unit.name,
                    "kind": unit.kind,
                    "layer": unit.layer,
                    "size": unit.size,
                    "kept": kept.get(unit.name, unit.size),
                }
                for unit in self.units
                if unit.kind in (*WIDTHS, *WHOLES) or unit.name in kept
            ],
            "refused": [dataclasses.asdict(miss) for miss in self._slimmer.log.misses],
            "latency_table": None if self._table is None else self._table.kind,
            "kinds": [
                {"setting": probe.plan.name, "ratio": probe.ratio, "degradation": probe.degradation}
                for probe in self.probes
            ],
        }


def check_words(text: str) -> None:
    """See early that a text can be a plan, before there is a graph.

    Raises:
        RequestError: it cannot.
    """
    for part in text.split("+"):
        name, sign, amount = part.rpartition("=")
        if not sign or not name.strip() or not amount.strip().replace(".", "", 1).isdecimal():
            raise RequestError(
                f"--slim {text!r} is no plan",
                fix="write auto, KIND=SHARE as mlp=0.5, or UNIT=COUNT+UNIT=COUNT as a report names them",
            )
