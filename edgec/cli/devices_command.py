"""`edgec devices`: this machine as measured, and the devices edgec has profiles of."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from edgec.cli import options
from edgec.core.errors import RequestError


def command(
    name: Annotated[
        str | None,
        typer.Argument(help="show one device's profile whole; `table` shows latency tables"),
    ] = None,
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="with `table`: the model, as compile takes it"),
    ] = None,
    target: Annotated[str, typer.Option("--target", help="with `table`: as compile takes it")] = "x86",
    precision: Annotated[options.Precision, typer.Option("--precision")] = options.Precision.auto,
    device: Annotated[
        str | None,
        typer.Option(
            "--device", help="with `table`: ssh://USER@HOST of a Jetson, or a profile to predict from"
        ),
    ] = None,
    inputs: options.Inputs = None,
    batch: options.Batch = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="measure again: this machine's rates, or the table")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Show this machine, measured, and the known devices; or what a model takes with parts cut out."""
    if name == "table":
        from edgec.cli import latency_table

        if model is None:
            latency_table.show_kept(as_json=as_json)
        else:
            table, refused = latency_table.make(
                model, target, precision.value, device, inputs or (), batch, again=measure
            )
            latency_table.show(table, refused, as_json=as_json)
        return
    if model is not None:
        raise RequestError(f"{model!r} is one word too many", fix="write edgec devices table MODEL")
    from edgec.cli.output import print_json
    from edgec.devices.host import host_profile, measured_rates
    from edgec.devices.profiles import profile, profiles

    if name is not None:
        fields = profile(name).to_dict()
        if as_json:
            print_json(fields)
        else:
            _print_profile(fields)
        return
    host = host_profile().to_dict()
    rates = measured_rates(again=measure).to_dict()
    known = [entry.to_dict() for entry in profiles()]
    if as_json:
        print_json({"host": host, "measured": rates, "devices": known})
    else:
        _print_host(host, rates)
        _print_known(known)


def _print_host(host: dict[str, Any], rates: dict[str, Any]) -> None:
    from edgec.cli.output import print_table

    print(f"{host['name']} ({host['architecture']}), {host['memory_gb']:.1f} GB of memory")
    print(
        f"cores      {host['usable_cores']} usable, {host['physical_cores']} physical, "
        f"{host['logical_cores']} logical"
    )
    print(f"ISA        {' '.join(host['isa'])}")
    caches = (f"L{cache['level']} {cache['kind']} {cache['kib']} KiB" for cache in host["caches"])
    print(f"caches     {', '.join(caches)}")
    print(f"copying    {rates['copy_gbps']:.1f} GB/s, measured {rates['measured_at']}")
    print()
    print_table(
        ["product, measured", "precision", "GFLOP/s", "spread %"],
        [
            [product["engine"], product["precision"], product["gflops"], product["spread"] * 100]
            for product in rates["products"]
        ],
    )


def _print_known(known: list[dict[str, Any]]) -> None:
    from edgec.cli.output import print_table

    print()
    print_table(
        ["device", "what it is", "chip"],
        [[entry["name"], entry["title"], entry["chip"]] for entry in known],
    )
    print("\nedgec devices NAME shows a profile whole, with the source of each figure")


def _print_profile(fields: dict[str, Any]) -> None:
    from edgec.cli.output import print_table

    print(f"{fields['title']}, {fields['chip']}")
    print()
    figures = {**fields["compute"], **fields["memory"]}
    print_table(
        ["figure", "value", "source", "note"],
        [
            [name, figure["value"], figure["source"]["title"], figure["note"]]
            for name, figure in figures.items()
        ],
    )
    if fields["power_modes"]:
        modes = (f"{mode['name']} ({mode['watts']} W)" for mode in fields["power_modes"])
        print(f"\npower modes: {', '.join(modes)}")
    for software in fields["software"]:
        versions = (f"{key} {software[key]}" for key in ("tensorrt", "cuda") if software.get(key) is not None)
        print(" ".join([f"software: {software['release']}", *versions]))
    for note in fields["notes"]:
        print(f"note: {note}")
    sources = {figure["source"]["title"]: figure["source"]["url"] for figure in figures.values()}
    for title, url in sources.items():
        print(f"source: {title}, {url}")
