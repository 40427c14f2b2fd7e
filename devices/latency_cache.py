"""Times of segments on disk: measured once a device, engine, version and kind of segment.

A file's name is the hash of all that its times depend on, so nothing in it goes stale. Files appear whole
(written beside and renamed), and what two processes measure at once is measured twice, not broken.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgec.core.json_file import read_object
from edgec.devices.host import cache_folder
from edgec.devices.latency_tables import Device, LatencyTable


def folder() -> Path:
    """Where the times are kept."""
    return cache_folder() / "latency"


def read(device: Device, what: Mapping[str, Any]) -> dict[str, Any] | None:
    """What was kept; None where nothing was, or nothing that can be read.

    Args:
        device: what the times are of.
        what: all else that they depend on, as plain data.
    """
    path = _file(device, what)
    try:
        fields = read_object(path)
        return dict(fields["times"]) if fields["of"] == _identity(device, what) else None
    except (OSError, ValueError, LookupError, TypeError):
        return None  # missing, or cut short by a full disk: measured again


def write(device: Device, what: Mapping[str, Any], times: Mapping[str, Any]) -> None:
    """Keep times."""
    fields = {"of": _identity(device, what), "device": device.name, "times": dict(times)}
    _write(_file(device, what), fields)


def _identity(device: Device, what: Mapping[str, Any]) -> str:
    return json.dumps([device.identity, device.engine, device.version, dict(what)], sort_keys=True)


def _file(device: Device, what: Mapping[str, Any]) -> Path:
    return folder() / f"{hashlib.sha256(_identity(device, what).encode()).hexdigest()[:24]}.json"


def keep(model: str, table: LatencyTable) -> None:
    """Keep a whole table, to be shown; of one network on one device the latest stays.

    Args:
        model: what the user calls the network.
        table: its table.
    """
    name = hashlib.sha256(json.dumps([model, table.device.digest]).encode()).hexdigest()[:24]
    _write(folder() / "tables" / f"{name}.json", {"model": model, "table": table.to_json()})


def kept() -> list[dict[str, Any]]:
    """The tables that were kept, each with its `model` and its `table`, in the order of the models."""
    found = []
    for path in sorted((folder() / "tables").glob("*.json")):
        try:
            fields = read_object(path)
            found.append({"model": str(fields["model"]), "table": dict(fields["table"])})
        except (OSError, ValueError, LookupError, TypeError):
            continue  # cut short by a full disk: made again when it is asked for
    return sorted(found, key=lambda entry: entry["model"])


def _write(path: Path, fields: Mapping[str, Any]) -> None:
    """Write a file whole or not at all; a home that cannot be written is measured again next time."""
    scratch = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
            scratch = file.name
            file.write(json.dumps(fields, indent=1) + "\n")
        Path(scratch).replace(path)
    except OSError:
        if scratch:
            Path(scratch).unlink(missing_ok=True)
