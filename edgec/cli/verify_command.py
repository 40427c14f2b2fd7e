"""`edgec verify`: a bundle proves itself, with nothing but what is in it."""

from __future__ import annotations

import sys

import typer

from edgec.cli import options


def command(bundle: options.BundlePath, key: options.Key = None, as_json: options.AsJson = False) -> None:
    """Prove a bundle from the bundle alone."""
    from edgec.core.bundle import ENGINE, Bundle
    from edgec.core.errors import JobError, NumericsError
    from edgec.runtime import machine
    from edgec.runtime.engines import ELSEWHERE, kind_of, what_runs
    from edgec.runtime.session import Session
    from edgec.runtime.verification import verify
    from edgec.targets import open_for_checking

    opened = Bundle.open(bundle, key=key)
    machine.check(opened)
    with Session(opened, open_for_checking(opened.engine_folder)) as session:
        found = verify(session)
    difference, gate, broken = found.difference, found.gate, found.broken
    precision, engine = opened.manifest["precision"], opened.manifest["engine"]
    elsewhere = ELSEWHERE.get(engine)
    # An engine that nothing ran is not proved by a graph that agrees.
    not_run = [f"{ENGINE}/{name}" for name in (elsewhere.not_run if elsewhere else ())]
    passed = not broken and not not_run
    fields = {
        "bundle": str(opened.path),
        "files": len(opened.manifest["files"]),
        "signed": key is not None,
        "samples": found.samples,
        "precision": precision,
        "kind": kind_of(engine),
        "ran": what_runs(engine),
        "not_run": not_run,
        "max_abs": difference.max_abs,
        "scaled": difference.scaled,
        "cosine": difference.cosine,
        "rms": difference.rms,
        "near_ties": difference.near_ties,
        "output": difference.output,
        **({} if found.greedy is None else {"greedy": found.greedy.to_json()}),
        "gate": {"scaled": gate.scaled, "rms": gate.rms, "unequal": gate.unequal},
        "passed": passed,
    }
    if broken:
        raise NumericsError(
            f"{broken}; {fields['kind']}: {fields['ran']}",
            details=[fields],
            where=str(opened.path),
            fix="compile the model again on this machine",
        )
    refusal = JobError(
        f"{', '.join(not_run)} did not run here, so it is not verified; the stand-in agrees",
        where=str(opened.path),
        fix="run it on its device and compare with the bundle's samples",
    )
    if as_json:
        from edgec.cli.output import print_json

        told = {"what": refusal.what, "where": refusal.where, "fix": refusal.fix}
        print_json(fields if passed else {**fields, "error": told, "exit_status": refusal.exit_status})
    else:
        print(f"files     {fields['files']} as recorded{' and signed' if key else ''}")
        print(f"ran       {fields['ran']}")
        print(
            f"numerics  {found.samples} samples, off by {difference.max_abs:.1e} at most, "
            f"{difference.scaled:.1e} of the output's spread: within the {precision} gate, {fields['kind']}"
        )
        if found.greedy is not None:
            print(f"tokens    {found.greedy}, {fields['kind']}")
        if elsewhere:
            print(f"not run   {', '.join(not_run) or 'the engine on its device'}: {elsewhere.why}")
    if not passed:
        print(f"edgec: {refusal}", file=sys.stderr)
        raise typer.Exit(refusal.exit_status)
