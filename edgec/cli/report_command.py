"""`edgec report`: a bundle's report as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgec.cli import options

if TYPE_CHECKING:
    from edgec.core.bundle import Bundle


def command(
    bundle: options.BundlePath,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="write the HTML file here")] = None,
    measured: Annotated[
        Path | None,
        typer.Option("--measured", metavar="F.json", help="first merge what a device measured into it"),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Write a bundle's report, one self-contained HTML file."""
    from jinja2 import TemplateError

    from edgec.cli.output import print_json
    from edgec.core.bundle import REPORT_JSON, Bundle, check_writable_file, writing_file
    from edgec.core.errors import IntegrityError
    from edgec.core.json_file import to_bytes
    from edgec.report.render import render

    opened = Bundle.open(bundle)
    path = output or Path(f"{opened.path.name.removesuffix('.edgec')}.html")
    check_writable_file(path)
    if measured is not None:
        opened = _merged(opened, measured)
    report = opened.report()
    try:
        page = render(report)
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, TemplateError) as error:
        raise IntegrityError(
            "its report is malformed",
            where=str(opened.path / REPORT_JSON),
            fix="compile the model again",
        ) from error
    with writing_file(path) as scratch:
        scratch.write_bytes(to_bytes(page))
    if as_json:
        print_json({"report": str(path), **report})
    else:
        print(path)


def _merged(opened: Bundle, path: Path) -> Bundle:
    from edgec.report.measured import check_model, merge, read

    fields = read(path)
    check_model(opened, fields)
    if "placement" in fields:
        from edgec.targets.coreml.shipping.placement import with_sources

        fields = with_sources(fields, opened.engine_folder)
    return merge(opened, fields)
