"""Making a latency table: a network's segments, cut to some sizes, built by the target and timed."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import onnx_ir as ir

from edgec.core.errors import JobError
from edgec.core.graph import Graph
from edgec.core.progress import Progress, Silent
from edgec.devices import latency_cache
from edgec.devices.latency_tables import LatencyTable, Place
from edgec.devices.segment_times import Dimension, SegmentTimes, Sizes, points
from edgec.passes.editing import sizes as sizes_of
from edgec.passes.infra import MatchLog
from edgec.passes.slim.cut import CutUnits
from edgec.passes.slim.extract import Segment, between, in_a_row, parted
from edgec.passes.slim.plan import share_kept
from edgec.passes.slim.units import RANK, Unit
from edgec.targets.segment_timer import Timer, graph_of
from edgec.version import __version__

_IN_A_ROW = 4
"""Equal segments that are timed as one network: their weights come from as far away as in the whole one, and
what a run costs by itself is shared among them."""

_ROW_BYTES = 64 * 2**20
"""Weights of such a network; of large segments fewer stand in a row."""

_SMALL = 0.05
"""The share of the network's time below which a kind of segment is timed at fewer sizes."""

_FEWER = 1.4
"""How many times fewer tokens a segment may have for the shares that cuts leave to be taken over: an
attention's products with its weights lose in proportion to its tokens, those between tokens with the square.
Its whole time is measured anyway."""

_WHOLE = "whole"

_REFUSED = "it, or one that equals it, cannot be cut to any of its sizes"

Names = tuple[tuple[str, int], ...]
"""The units that cut one dimension, as in `Place.units`."""


@dataclasses.dataclass(frozen=True)
class _Kind:
    """All segments that are equal.

    Attributes:
        segments: in order.
        names: by segment and dimension, the units that cut it.
        dimensions: what can be cut.
        digest: what they are.
    """

    segments: list[Segment]
    names: list[tuple[Names, ...]]
    dimensions: tuple[Dimension, ...]
    digest: str

    @functools.cached_property
    def elements(self) -> int:
        """Elements of the stream: they tell how many tokens or pixels it carries."""
        return math.prod(size or 1 for size in sizes_of(self.segments[0].stream) or ())

    @property
    def empty(self) -> str:
        """The name of an empty network with its stream."""
        stream = self.segments[0].stream
        return f"empty {stream.dtype}{sizes_of(stream)}"

    @functools.cached_property
    def family(self) -> str:
        """What it is up to its number of tokens."""
        return self.segments[0].digest(sized=False)

    def is_like(self, other: _Kind) -> bool:
        """Whether a cut leaves about the same share of its time as of another's: fewer tokens, no more."""
        return (
            self.family == other.family
            and self.dimensions == other.dimensions
            and self.elements * _FEWER >= other.elements
        )

    @functools.cached_property
    def row(self) -> int:
        """How many are timed in a row."""
        if not self.segments[0].repeats:
            return 1
        weights = sum(
            value.const_value.nbytes
            for value in {value for node in self.segments[0].nodes for value in node.inputs}
            if value is not None and value.const_value is not None
        )
        return max(1, min(_IN_A_ROW, len(self.segments), _ROW_BYTES // max(weights, 1)))


def latency_table(
    graph: Graph,
    units: Sequence[Unit],
    timer: Timer,
    *,
    progress: Progress | None = None,
    again: bool = False,
) -> LatencyTable:
    """The latency of a network by what is kept of its units.

    The graph is parted at its residual stream. Equal segments are timed once, some in a row, at several
    sizes of each dimension and of two at a time, beside the whole segment and beside an empty network, in
    alternating blocks. The whole network and two cut ones are timed beside them, which says what a saving of
    a segment is worth in the network. What was timed before, on this device with this engine, is read from
    the cache.

    Args:
        graph: the neutral graph, of fixed shapes; not changed.
        units: what may be cut, as `find_units` finds it.
        timer: the device and the engine.
        progress: told each step.
        again: time everything anew.

    Raises:
        RequestError: the graph has open shapes.
        EdgecError: the engine does not take a segment.
    """
    progress = progress or Silent()
    table = _Maker(graph, units, timer, progress, again=again).table()
    latency_cache.keep(graph.source.spec, table)
    return table


class _Maker:
    def __init__(
        self, graph: Graph, units: Sequence[Unit], timer: Timer, progress: Progress, *, again: bool
    ) -> None:
        self.graph = graph
        self.units = {unit.name: unit for unit in units}
        self.timer = timer
        self.progress = progress
        # A prediction costs nothing, and its profile may have been corrected.
        self.again = again or timer.kind == "predicted"
        self.refused: dict[str, str] = {}
        self.segments = parted(graph.model.graph)
        self.names = _dimensions(self.segments, units)
        self.kinds = self._kinds()

    def table(self) -> LatencyTable:
        """The table."""
        base, wholes, combinations = self._network()
        timed: dict[int, SegmentTimes] = {}
        full: list[int] = []
        for index in sorted(range(len(self.kinds)), key=lambda index: -self.kinds[index].elements):
            kind = self.kinds[index]
            like = next((other for other in reversed(full) if kind.is_like(self.kinds[other])), None)
            if like is not None:
                timed[index] = _scaled(timed[like], kind, wholes[index])
                continue
            full.append(index)
            share = wholes[index] * len(kind.segments) / base
            said = f"timing segments like {kind.segments[0].layer} ({index + 1} of {len(self.kinds)})"
            self.progress.step(said)
            timed[index] = self._times(kind, wholes[index], coarse=share < _SMALL)
        reached = {name for kind in self.kinds for names in kind.names for each in names for name, _ in each}
        places = [
            Place(index, segment.layer, names)
            for index, kind in enumerate(self.kinds)
            for segment, names in zip(kind.segments, kind.names, strict=True)
        ]
        table = LatencyTable(
            self.timer.kind,
            self.timer.device,
            base,
            tuple(timed[index] for index in range(len(self.kinds))),
            tuple(places),
            {name: unit.size for name, unit in self.units.items() if name in reached - self.refused.keys()},
            misses={name: "no segment has it" for name in self.units if name not in reached} | self.refused,
        )
        for kept, share in combinations:
            if kept.keys() <= table.sizes.keys():
                table.correct(kept, share * base)
        return table

    def _kinds(self) -> list[_Kind]:
        """The kinds of segments that something can be cut out of."""
        kinds: dict[tuple[str, tuple[Dimension, ...]], _Kind] = {}
        for segment, dimensions in zip(self.segments, self.names, strict=True):
            if not dimensions:
                continue
            shapes = tuple(dimension for dimension, _ in dimensions)
            names = tuple(each for _, each in dimensions)
            digest = segment.digest()
            kind = kinds.setdefault((digest, shapes), _Kind([], [], shapes, digest))
            kind.segments.append(segment)
            kind.names.append(names)
        return list(kinds.values())

    def _network(self) -> tuple[float, list[float], list[tuple[dict[str, int], float]]]:
        """The whole network's time, each kind's as a part of it, and cut networks' shares of it.

        Returns:
            milliseconds of the network; of one segment of each kind; and what was kept of cut networks, with
            their time over the whole one's.
        """
        plans = [plan for plan in self._plans() if self._can_be_cut(plan)]
        what = {
            "network": [segment.digest() for segment in self.segments],
            "rows": [[kind.digest, kind.row] for kind in self.kinds],
            "plans": [sorted(plan.items()) for plan in plans],
            **_made_by(),
        }
        kept = None if self.again else latency_cache.read(self.timer.device, what)
        if kept is None:
            self.progress.step("timing the whole network")
            networks: dict[str, Graph] = {_WHOLE: self.graph}
            for index, plan in enumerate(plans):
                networks[f"plan {index}"] = self.graph.with_model(self._cut(plan))
            for index, kind in enumerate(self.kinds):
                model = in_a_row(self.graph.model, kind.segments[: kind.row])
                networks[f"kind {index}"] = graph_of(model)
                networks[kind.empty] = _empty(kind.segments[0].stream, self.graph.model)
            times = self.timer.times(networks)
            kept = {name: time for name, (time, _) in times.items()}
            latency_cache.write(self.timer.device, what, kept)
        wholes = [
            max(kept[f"kind {index}"] - kept[kind.empty], 1e-6) / kind.row
            for index, kind in enumerate(self.kinds)
        ]
        shares = [(plan, kept[f"plan {index}"] / kept[_WHOLE]) for index, plan in enumerate(plans)]
        return kept[_WHOLE], wholes, shares

    def _times(self, kind: _Kind, whole: float, *, coarse: bool) -> SegmentTimes:
        """The times of a kind of segment, on the clock on which the whole one takes `whole` milliseconds."""
        wanted = points(kind.dimensions, coarse=coarse)
        what = {
            "segment": kind.digest,
            "row": kind.row,
            "dimensions": [dataclasses.asdict(dimension) for dimension in kind.dimensions],
            **_made_by(),
        }
        kept: dict[str, Any] = {} if self.again else latency_cache.read(self.timer.device, what) or {}
        missing = [sizes for sizes in wanted if _key(sizes) not in kept]
        if missing:
            kept |= self._measured(kind, missing)
            latency_cache.write(self.timer.device, what, kept)
        self._refuse(kind, kept)
        times = {sizes: whole * kept[_key(sizes)] for sizes in wanted if kept[_key(sizes)] is not None}
        return SegmentTimes(kind.segments[0].layer, kind.dimensions, times, float(kept.get("spread", 0.0)))

    def _refuse(self, kind: _Kind, kept: Mapping[str, float | None]) -> None:
        """Remember the units that could not be cut to any size."""
        whole = tuple(dimension.size for dimension in kind.dimensions)
        for place, dimension in enumerate(kind.dimensions):
            alone = [
                kept.get(_key((*whole[:place], level, *whole[place + 1 :])))
                for level in dimension.levels(coarse=True)
                if level != dimension.size
            ]
            if alone and all(time is None for time in alone):
                self.refused |= {name: _REFUSED for names in kind.names for name, _ in names[place]}

    def _measured(self, kind: _Kind, wanted: Iterable[Sizes]) -> dict[str, float | None]:
        """Of each size, the time over the whole segment's; None where the units cannot be cut to it."""
        whole = tuple(dimension.size for dimension in kind.dimensions)
        networks: dict[str, Graph] = {
            _key(whole): graph_of(in_a_row(self.graph.model, kind.segments[: kind.row])),
            kind.empty: _empty(kind.segments[0].stream, self.graph.model),
        }
        ratios: dict[str, float | None] = {}
        for sizes in wanted:
            if sizes == whole:
                continue
            try:
                row = self._row(kind, sizes)
            except JobError as error:
                self.progress.note(f"{kind.segments[0].layer}: {error.what}")
                ratios[_key(sizes)] = None
                continue
            if row is None:
                ratios[_key(sizes)] = 0.0
            else:
                networks[_key(sizes)] = row
        found = self.timer.times(networks)
        empty = found.pop(kind.empty)[0]
        start = max(found[_key(whole)][0] - empty, 1e-6)
        ratios |= {name: max(time - empty, 0.0) / start for name, (time, _) in found.items()}
        return {**ratios, "spread": found[_key(whole)][1]}

    def _row(self, kind: _Kind, sizes: Sizes) -> Graph | None:
        """Segments of a kind cut to a size; None where nothing is left of them."""
        kept: dict[str, int] = {}
        for names in kind.names[: kind.row]:
            for dimension, units, size in zip(kind.dimensions, names, sizes, strict=True):
                if size != dimension.size:
                    name, member = units[0]
                    kept[name] = size if member < 0 else min(member, kept.get(name, member))
        model = self._cut(kept)
        left = [between(model.graph, segment) for segment in kind.segments[: kind.row]]
        if any(segment is None for segment in left):
            return None
        return graph_of(in_a_row(model, [segment for segment in left if segment is not None]))

    def _cut(self, kept: Mapping[str, int]) -> ir.Model:
        """The network with the first members of these units."""
        model = self.graph.model.clone()
        units = [self.units[name] for name in kept]
        CutUnits(units, {name: range(count) for name, count in kept.items()}).apply(model, MatchLog())
        return model

    def _can_be_cut(self, kept: Mapping[str, int]) -> bool:
        """Whether nothing stands in the way of cutting these units together."""
        try:
            self._cut(kept)
        except JobError:
            return False
        return bool(kept)

    def _plans(self) -> list[dict[str, int]]:
        """Two cut networks that show what savings are worth: every width at half, and one kind at a quarter.

        The second tells the factor of the widest kind of unit from the others'.
        """
        widths = [unit for unit in self.units.values() if not unit.branches and unit.kind != RANK]
        half = {unit.name: share_kept(unit, 0.5) for unit in widths if unit.kind != "residual"}
        members: dict[str, int] = {}
        for unit in widths:
            members[unit.kind] = members.get(unit.kind, 0) + unit.size
        if not half:
            return []
        widest = max((unit.kind for unit in widths if unit.name in half), key=lambda kind: members[kind])
        quarter = {unit.name: share_kept(unit, 0.25) for unit in widths if unit.kind == widest}
        plans = [half, quarter] if quarter.keys() != half.keys() else [half]
        return [
            {name: count for name, count in plan.items() if count < self.units[name].size} for plan in plans
        ]


def _dimensions(
    segments: Sequence[Segment], units: Sequence[Unit]
) -> list[tuple[tuple[Dimension, Names], ...]]:
    """By segment, what can be cut out of it and by which units."""
    holders: dict[str, list[Unit]] = {}
    removers: dict[str, list[tuple[str, int]]] = {}
    for unit in units:
        for extent in (*unit.slices, *unit.activations):
            if not unit.branches:
                holders.setdefault(extent.value, []).append(unit)
        if unit.node:
            holders.setdefault(unit.node, []).append(unit)
        for member, branches in enumerate(unit.branches):
            for branch in branches:
                removers.setdefault(branch.add, []).append((unit.name, member))
    # The unit that takes the least else with it is the one to time a branch by.
    reach = {unit.name: sum(map(len, unit.branches)) for unit in units}
    for names_of_branch in removers.values():
        names_of_branch.sort(key=lambda each: reach[each[0]])
    order = {unit.name: place for place, unit in enumerate(units)}
    found = []
    for segment in segments:
        inside: dict[str, Unit] = {}
        removed: list[tuple[Dimension, Names]] = []
        for node in segment.nodes:
            names = [node.name, *(each.name for each in (*node.inputs, *node.outputs) if each is not None)]
            inside |= {unit.name: unit for name in names for unit in holders.get(name or "", ())}
            for value in node.outputs:
                if value.name in removers:
                    removed.append((Dimension("branch", 1), tuple(removers[value.name])))
        widths = sorted(inside.values(), key=lambda unit: order[unit.name])
        found.append(
            (
                *((Dimension(unit.kind, unit.size, unit.step), ((unit.name, -1),)) for unit in widths),
                *removed,
            )
        )
    return found


def _scaled(like: SegmentTimes, kind: _Kind, whole: float) -> SegmentTimes:
    """The times of a kind of segment by the shares that cuts left of one with more tokens."""
    start = like.times[like.whole]
    times = {size: whole * time / start for size, time in like.times.items()}
    return SegmentTimes(kind.segments[0].layer, kind.dimensions, times, like.spread)


def _empty(stream: ir.Value, model: ir.Model) -> Graph:
    """A network of one cheap op: what a run costs by itself."""
    given = ir.Value(name="stream", shape=stream.shape, type=stream.type)
    node = ir.Node("", "Neg", [given], name="empty")
    node.outputs[0].name, node.outputs[0].shape, node.outputs[0].type = "out", stream.shape, stream.type
    graph = ir.Graph([given], node.outputs, nodes=[node], opset_imports={"": model.opset_imports[""]})
    return graph_of(ir.Model(graph, ir_version=model.ir_version))


def _key(sizes: Sizes) -> str:
    return "x".join(map(str, sizes))


def _made_by() -> dict[str, str]:
    """The version of what writes the networks: another one may write them differently."""
    return {"edgec": __version__}
