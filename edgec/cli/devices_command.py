"""`edgec devices`: this machine as measured, and the devices edgec has profiles of."""

from __future__ import annotations

from typing import Annotated

import typer

from edgec.cli import options


def command(
    name: Annotated[str | None, typer.Argument(help="show one device's profile whole")] = None,
    measure: Annotated[bool, typer.Option("--measure", help="measure this machine's rates again")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Show this machine, measured, and the known devices."""
    from edgec.cli.output import print_json, print_table
    from edgec.devices.host import host_profile, measured_rates
    from edgec.devices.profiles import profile, profiles

    if name is not None:
        fields = profile(name).to_dict()
        print_json(fields) if as_json else _print_fields(fields)
        return
    host = host_profile().to_dict()
    rates = measured_rates(again=measure).to_dict()
    known = [entry.to_dict() for entry in profiles()]
    if as_json:
        print_json({"host": host, "measured": rates, "devices": known})
        return
    _print_fields(host)
    _print_fields(rates)
    print()
    print_table(
        ["device", "vendor", "chip"],
        [[entry["name"], entry["vendor"], entry["chip"]] for entry in known],
    )


def _print_fields(fields: dict[str, object], indent: str = "") -> None:
    for key, value in fields.items():
        if isinstance(value, dict):
            print(f"{indent}{key}")
            _print_fields(value, indent + "  ")
        else:
            print(f"{indent}{key}  {value}")
