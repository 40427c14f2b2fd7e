"""`edgec report`: a bundle's report as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgec.cli import options


def command(
    bundle: options.BundlePath,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="write the HTML file here")] = None,
    as_json: options.AsJson = False,
) -> None:
    """Write a bundle's report, one self-contained HTML file."""
    from edgec.cli.output import print_json
    from edgec.core.bundle import Bundle
    from edgec.report.render import render

    opened = Bundle.open(bundle)
    report = opened.report()
    path = output or Path(f"{opened.path.name.removesuffix('.edgec')}.html")
    path.write_text(render(report), encoding="utf-8")
    if as_json:
        print_json({"report": str(path), **report})
    else:
        print(path)
