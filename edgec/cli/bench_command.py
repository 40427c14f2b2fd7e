"""`edgec bench`: an engine against what a user would otherwise run, in alternating blocks."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from edgec.cli import options


def command(
    model: options.ModelOrBundle,
    against: Annotated[
        str, typer.Option("--against", metavar="ort,openvino,torch", help="peers on the exporter's own graph")
    ] = "",
    device: Annotated[
        str, typer.Option("--device", help="where to measure; this machine is 'local'")
    ] = "local",
    blocks: Annotated[int, typer.Option("--blocks", min=2, help="blocks of runs for each engine")] = 9,
    precision: Annotated[options.Precision, typer.Option("--precision")] = options.Precision.auto,
    inputs: options.Inputs = None,
    batch: options.Batch = None,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
) -> None:
    """Measure a model or a bundle beside its peers."""
    from edgec.benchmark import bench
    from edgec.cli.output import print_json
    from edgec.core.progress import progress

    with progress() as steps:
        fields = bench(
            model,
            against=[name.strip() for name in against.split(",") if name.strip()],
            device=device,
            blocks=blocks,
            precision=precision.value,
            inputs=inputs or [],
            batch=batch,
            seed=seed,
            progress=steps,
        )
    if as_json:
        print_json(fields)
    else:
        _print(fields)


def _print(fields: dict[str, Any]) -> None:
    from edgec.cli.output import print_table

    print(
        f"{fields['model']} on {fields['device']}: milliseconds a run, {fields['blocks']} alternating blocks"
    )
    print_table(
        ["engine", "p50", "p90", "spread %", "edgec's latency over it"],
        [
            [entry["name"], entry["p50"], entry["p90"], entry["spread"] * 100, entry["edgec_over_it"]]
            for entry in fields["entries"]
        ],
    )
