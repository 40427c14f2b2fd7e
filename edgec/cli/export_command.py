"""`edgec export`: a bundle as another tool's users expect one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgec.cli import options


def command(
    bundle: options.BundlePath,
    polygraphy: Annotated[
        Path,
        typer.Option(
            "--polygraphy",
            metavar="DIR",
            help="a folder with the model, its samples and Polygraphy's commands",
        ),
    ],
    as_json: options.AsJson = False,
) -> None:
    """Write a Jetson bundle's graph, plugins and samples for NVIDIA's Polygraphy."""
    from edgec.core.bundle import Bundle
    from edgec.packaging.polygraphy import write_polygraphy

    fields = write_polygraphy(Bundle.open(bundle), polygraphy)
    if as_json:
        from edgec.cli.output import print_json

        print_json({"bundle": str(bundle), **fields})
    else:
        print("\n".join([fields["folder"], *fields["commands"]]))
