"""`edgec report`: a bundle's report as one HTML file, or several bundles compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgec.cli import options
from edgec.core.errors import IntegrityError, JobError, RequestError

if TYPE_CHECKING:
    from edgec.core.bundle import Bundle
    from edgec.report.limits import Limits

_TABLE = "compared.html"


def command(
    bundles: Annotated[
        list[Path], typer.Argument(metavar="BUNDLE…", help="bundles, each its folder or its zip file")
    ],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="write the HTML file here")] = None,
    measured: Annotated[
        Path | None,
        typer.Option("--measured", metavar="F.json", help="first merge what a device measured into it"),
    ] = None,
    junit: Annotated[
        Path | None,
        typer.Option("--junit", metavar="F.xml", help="write gates and limits as JUnit cases"),
    ] = None,
    fail_above: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-above", metavar="5ms|1%", help="fail above this median latency, or this drop of the score"
        ),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Write a bundle's report, or one that compares several: one self-contained HTML file."""
    from edgec.cli.output import print_json
    from edgec.core.bundle import Bundle, check_writable_file
    from edgec.report.limits import Limits

    limits = Limits.of(fail_above or [])
    if measured is not None and len(bundles) > 1:
        raise RequestError("--measured goes with one bundle", fix="merge into each, then compare them")
    opened = [Bundle.open(path) for path in bundles]
    first = opened[0]
    is_one = len(opened) == 1
    path = output or Path(f"{first.path.name.removesuffix('.edgec')}.html" if is_one else _TABLE)
    for each in (path, junit):
        if each is not None:
            check_writable_file(each)
    if measured is not None:
        opened = [first := _merged(first, measured)]
    fields = _write_one(first, path) if is_one else _write_table(opened, path)
    failed = _judge(opened, limits, junit)
    if as_json:
        print_json({"report": str(path), "failed": failed, **fields})
    else:
        print(path)
    if failed:
        raise JobError("; ".join(failed), fix="read the report, or raise the limit")


def _write_one(bundle: Bundle, path: Path) -> dict[str, Any]:
    from jinja2 import TemplateError

    from edgec.core.bundle import REPORT_JSON, writing_file
    from edgec.core.json_file import to_bytes
    from edgec.report.render import render

    report = bundle.report()
    try:
        page = render(report)
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, TemplateError) as error:
        raise IntegrityError(
            "its report is malformed",
            where=str(bundle.path / REPORT_JSON),
            fix="compile the model again",
        ) from error
    with writing_file(path) as scratch:
        scratch.write_bytes(to_bytes(page))
    return report


def _write_table(bundles: Sequence[Bundle], path: Path) -> dict[str, Any]:
    from edgec.core.bundle import writing_file
    from edgec.core.json_file import to_bytes
    from edgec.report.comparison import render
    from edgec.version import __version__

    rows = _rows(bundles)
    with writing_file(path) as scratch:
        scratch.write_bytes(to_bytes(render(rows, __version__)))
    return {"bundles": [dataclasses.asdict(row) for row in rows]}


def _judge(bundles: Sequence[Bundle], limits: Limits, junit_file: Path | None) -> list[str]:
    """What breaks a limit or a gate, one sentence each; nothing where nobody asked."""
    from edgec.core.bundle import writing_file
    from edgec.report.limits import Limits, cases, junit

    if junit_file is None and limits == Limits():
        return []
    found = cases(_rows(bundles), limits)
    if junit_file is not None:
        with writing_file(junit_file) as scratch:
            scratch.write_bytes(junit(found))
    return [f"{case.bundle}: {case.name}: {case.failure}" for case in found if case.failure]


def _rows(bundles: Sequence[Bundle]) -> list[Any]:
    from edgec.core.bundle import REPORT_JSON
    from edgec.report.comparison import row_of

    rows = []
    for bundle in bundles:
        try:
            rows.append(row_of(bundle))
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            raise IntegrityError(
                "its report is malformed",
                where=str(bundle.path / REPORT_JSON),
                fix="compile the model again",
            ) from error
    return rows


def _merged(opened: Bundle, path: Path) -> Bundle:
    from edgec.report.measured import check_model, merge, read

    fields = read(path)
    check_model(opened, fields)
    if "placement" in fields:
        from edgec.targets.coreml.shipping.placement import with_sources

        fields = with_sources(fields, opened.engine_folder)
    return merge(opened, fields)
