"""`edgec devices table`: what a network takes on a device with parts of it cut out."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from edgec.devices.latency_tables import LatencyTable


def make(
    model: str,
    target: str,
    precision: str,
    device: str | None,
    inputs: Sequence[str],
    batch: int | None,
    *,
    again: bool,
) -> tuple[LatencyTable, list[dict[str, str]]]:
    """Measure the table of a model, or predict it where its device is not connected.

    Returns:
        the table, and what cannot be cut: `layer` and `reason`.

    Raises:
        EdgecError: the model, the target or the device is not what it should be, or nothing can be cut.
    """
    from edgec.compiler import load, to_neutral
    from edgec.core.errors import JobError
    from edgec.core.progress import progress
    from edgec.devices.connections import connect
    from edgec.devices.profiles import profile
    from edgec.passes.infra import MatchLog
    from edgec.passes.pipeline import default_pipeline
    from edgec.passes.slim.find import find_units
    from edgec.targets import target_named
    from edgec.targets.base import PreparesGraphs
    from edgec.targets.timers import timer_for
    from edgec.targets.unit_latency import latency_table
    from edgec.targets.x86.forms import EXPORTED

    found = target_named(target)
    is_connected = device is not None and (device == "local" or "://" in device)
    given = None if device is None or is_connected else profile(device)
    with progress() as steps, contextlib.ExitStack() as stack:
        graph = load(model, inputs=inputs, batch=batch, progress=steps)
        if isinstance(found, PreparesGraphs):
            graph = found.prepared(graph)
        graph = to_neutral(graph, default_pipeline(), steps).graph
        log = MatchLog()
        units = find_units(graph.model, log)
        if not units:
            reasons = "; ".join(f"{miss.source}: {miss.reason}" for miss in log.misses[:3])
            raise JobError(f"nothing can be cut out of {model}: {reasons or 'it has no linear layer'}")
        candidate = next(each for each in found.candidates(graph, precision) if each.form != EXPORTED)
        connection = stack.enter_context(connect(device)) if is_connected and device else None
        timer = timer_for(found, candidate, connection=connection, profile=given, progress=steps)
        table = latency_table(graph, units, timer, progress=steps, again=again)
    return table, [{"layer": miss.source, "reason": miss.reason} for miss in log.misses]


def show(table: LatencyTable, refused: Sequence[Mapping[str, str]], *, as_json: bool) -> None:
    """Print a table, and what cannot be cut with the reasons."""
    from edgec.cli.output import print_json

    fields = {**table.to_json(), "refused": list(refused)}
    if as_json:
        print_json(fields)
    else:
        _print(fields)


def show_kept(*, as_json: bool) -> None:
    """Print which tables were made before."""
    from edgec.cli.output import print_json, print_table
    from edgec.devices import latency_cache

    kept = latency_cache.kept()
    if as_json:
        print_json({"folder": str(latency_cache.folder()), "tables": kept})
        return
    if not kept:
        print("no latency table was made yet: edgec devices table MODEL makes one")
        return
    print_table(
        ["model", "device", "engine", "version", "kind", "ms", "units"],
        [
            [
                entry["model"],
                entry["table"]["device"]["name"],
                entry["table"]["device"]["engine"],
                entry["table"]["device"]["version"],
                entry["table"]["kind"],
                entry["table"]["base_ms"],
                len(entry["table"]["units"]),
            ]
            for entry in kept
        ],
    )


def _print(fields: Mapping[str, Any]) -> None:
    from edgec.cli.output import print_table

    device = fields["device"]
    print(f"{device['name']}, {device['engine']}, {device['version']}")
    print(f"whole network {fields['base_ms']:.3f} ms, {fields['kind']}")
    print()
    levels = {unit["name"]: [entry["kept"] for entry in unit["levels"]] for unit in fields["units"]}
    rows = []
    for index, segment in enumerate(fields["segments"]):
        places = [place for place in fields["places"] if place["segment"] == index]
        whole = [dimension["size"] for dimension in segment["dimensions"]]
        times = {tuple(sizes): time for sizes, time in segment["times"]}
        for axis, dimension in enumerate(segment["dimensions"]):
            unit = places[0]["units"][axis][0][0]
            alone = {
                sizes[axis]: time
                for sizes, time in times.items()
                if all(size == whole[other] for other, size in enumerate(sizes) if other != axis)
            }
            offered = dimension["kind"] == "branch"
            rows += [
                [
                    f"{segment['layer']}{f', {len(places)} alike' if len(places) > 1 else ''}",
                    unit,
                    size,
                    1e3 * time,
                    "" if offered or size in levels[unit] else "not offered: no faster",
                ]
                for size, time in sorted(alone.items(), reverse=True)
            ]
    print_table(["segment", "unit", "kept", f"µs a segment, {fields['kind']}", ""], rows)
    for name, reason in fields["misses"].items():
        print(f"{name}: {reason}")
    for miss in fields["refused"]:
        print(f"not cut: {miss['layer']}: {miss['reason']}")
