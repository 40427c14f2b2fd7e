"""What an Apple device measured, in the words of the user's model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgec.core.errors import RequestError
from edgec.targets.coreml.neural_engine.operations import operations


def with_sources(measured: Mapping[str, Any], engine_folder: Path) -> dict[str, Any]:
    """A device's report with the source layer of every operation that it placed.

    Args:
        measured: what the bundle's Swift tool wrote.
        engine_folder: the bundle's engine.

    Raises:
        RequestError: its placement is not a list of operations.
    """
    rows = measured.get("placement")
    if rows is None:
        return dict(measured)
    keys = ("operation", "op", "device")
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and all(key in row for key in keys) for row in rows
    ):
        raise RequestError(
            "the placement in the device's report is not a list of operations",
            fix="give the JSON file that the bundle's Swift tool wrote",
        )
    sources = {
        output.name: operation.source
        for operation in operations(engine_folder)
        for output in operation.outputs
    }
    return {**measured, "placement": [{**row, "source": sources.get(row["operation"], "")} for row in rows]}
