"""`edgec sweep`: models × targets × options, one row each."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgec.cli import options

if TYPE_CHECKING:
    from edgec.sweep.plan import Plan
    from edgec.sweep.rows import Row
    from edgec.sweep.sweep import Run, Sweep


def command(
    what: Annotated[
        list[str], typer.Argument(metavar="PLAN.toml|MODEL…", help="a plan, or models as compile takes them")
    ],
    targets: Annotated[
        list[str] | None, typer.Option("--target", help="a target of the models; may be said again")
    ] = None,
    rows: Annotated[
        list[str] | None,
        typer.Option(
            "--options",
            metavar="NAME=VALUE,…",
            help="options of every compile, as precision=fp32,tokens=r=8; said again, another row of them",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="the sweep's folder; PLAN.sweep where not given")
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="compiles at once on this machine")] = 1,
    on: Annotated[
        str | None, typer.Option("--on", metavar="ray://HOST:PORT", help="a Ray cluster to run on")
    ] = None,
    cell: Annotated[
        int | None, typer.Option("--cell", min=0, help="run only this cell, and no table")
    ] = None,
    emit_kubernetes: Annotated[
        bool, typer.Option("--emit-kubernetes", help="print Kubernetes jobs of the plan and run nothing")
    ] = False,
    image: Annotated[str, typer.Option("--image", help="of the jobs: an image with edgec")] = "edgec",
    claim: Annotated[
        str, typer.Option("--claim", help="of the jobs: the claim of the shared volume")
    ] = "sweep",
    against: Annotated[
        Path | None,
        typer.Option("--against", metavar="FOLDER", help="an earlier sweep; exit status 1 on what got worse"),
    ] = None,
    as_json: options.AsJson = False,
) -> int:
    """Compile models for targets with options; what is done is kept, and a second run does the rest."""
    from edgec.cli.output import print_json
    from edgec.core.progress import progress
    from edgec.sweep import comparison, page, results
    from edgec.sweep.cells import Runner
    from edgec.sweep.sweep import Sweep, on_this_machine

    plan = _plan(what, targets, rows)
    if emit_kubernetes:
        _emit(plan, what[0], image, claim, jobs)
        return 0
    folder = Path(f"{plan.name}.sweep") if output is None else output
    before = None if against is None else results.read(against)
    threads = max(1, (os.cpu_count() or 1) // jobs) if jobs > 1 else 0
    sweep = Sweep(plan, Runner(folder.resolve(), threads))
    count = len(plan.cells)
    if cell is not None:
        return _one(sweep, cell)
    run = on_this_machine(jobs) if on is None else _on_ray(on)
    with progress() as steps:

        def told(row: Row) -> None:
            steps.note(f"{row.verdict:9} {' '.join(row.place)}" + (f": {row.reason}" if row.reason else ""))
            steps.step(f"{len(sweep.rows())} of {count} cells")

        steps.step(f"{len(sweep.rows())} of {count} cells")
        found = sweep.go_on(run, told)
    changes = None if before is None else comparison.compare(before, found)
    counts = Counter(row.verdict for row in found)
    fields = {
        "folder": str(folder),
        "results": str(folder / results.FILE),
        "page": str(folder / page.FILE),
        "cells": count,
        **{verdict: counts[verdict] for verdict in ("verified", "refused", "failed")},
        "changes": None if changes is None else [dataclasses.asdict(change) for change in changes],
    }
    if as_json:
        print_json({**fields, "rows": [dataclasses.asdict(row) for row in found]})
    else:
        print(f"cells     {count}: {', '.join(f'{counts[name]} {name}' for name in counts)}")
        print(f"results   {fields['results']}")
        print(f"matrix    {fields['page']}")
        for change in changes or ():
            print(change)
        if changes == []:
            print(f"nothing changed against {against}")
    return int(any(change.worse for change in changes or ()))


def _on_ray(address: str) -> Run:
    from edgec.core.errors import RequestError
    from edgec.sweep import on_ray

    if not address.startswith("ray://"):
        raise RequestError(f"--on {address} is no cluster", fix="write ray://HOST:PORT")
    return functools.partial(on_ray.run, address)


def _one(sweep: Sweep, number: int) -> int:
    """Run one cell of a plan; whoever looks for the table later finds its row."""
    from edgec.core.errors import RequestError

    if number >= len(sweep.plan.cells):
        raise RequestError(f"the plan has {len(sweep.plan.cells)} cells, and no cell {number}")
    cell = sweep.plan.cells[number]
    row = sweep.runner.done(cell) or sweep.runner.run(cell)
    assert row is not None
    print(f"{row.verdict}  {cell}" + (f": {row.reason}" if row.reason else ""))
    return 0


def _emit(plan: Plan, file: str, image: str, claim: str, jobs: int) -> None:
    from edgec.core.errors import RequestError
    from edgec.sweep import kubernetes

    if not file.endswith(".toml"):
        raise RequestError("--emit-kubernetes takes a plan's file, which the pods read")
    print(kubernetes.jobs(plan, Path(file).resolve(), image, claim, jobs), end="")


def _plan(what: list[str], targets: list[str] | None, rows: list[str] | None) -> Plan:
    from edgec.core.errors import RequestError
    from edgec.sweep import plan as plans

    if len(what) == 1 and what[0].endswith(".toml"):
        if targets or rows:
            raise RequestError("a plan has its own targets and options", fix="write them into the plan")
        return plans.read(Path(what[0]))
    named = {text: dict(_option(word) for word in text.split(",")) for text in rows or ()}
    return plans.made("models", what, targets or ["x86"], named or {plans.PLAIN: {}})


def _option(word: str) -> tuple[str, str]:
    from edgec.core.errors import RequestError

    name, sign, value = word.strip().partition("=")
    if not sign:
        raise RequestError(f"the option {word!r} has no value", fix="write NAME=VALUE, as precision=fp32")
    return name, value
