"""`edgec doctor`: what this machine has, what it lacks, and what to do about it."""

from __future__ import annotations

import dataclasses

import typer

from edgec.cli import options


def command(as_json: options.AsJson = False) -> None:
    """Check packages, compilers and tools."""
    from edgec.cli.output import print_json, print_table
    from edgec.devices.doctor import diagnose

    checks = diagnose()
    if as_json:
        print_json({"checks": [dataclasses.asdict(check) for check in checks]})
    else:
        print_table(
            ["check", "status", "found", "what to do"],
            [[check.name, check.status, check.found, check.fix or ""] for check in checks],
        )
    if any(check.status == "broken" for check in checks):
        raise typer.Exit(1)
