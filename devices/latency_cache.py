"""Times of segments on disk: measured once a device, engine, version and kind of segment.

A file's name is the hash of all that its times depend on, so nothing in it goes stale. Files appear whole
(written beside and renamed), and what two processes measure at once is measured twice, not broken.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgec.core.json_file import read_object
from edgec.devices.host import cache_folder
from edgec.devices.latency_tables import Device


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
    """Keep times; a home that cannot be written is measured again next time."""
    path = _file(device, what)
    text = json.dumps({"of": _identity(device, what), "device": device.name, "times": times}, indent=1)
    scratch = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
            scratch = file.name
            file.write(text + "\n")
        os.replace(scratch, path)
    except OSError:
        if scratch:
            Path(scratch).unlink(missing_ok=True)


def _identity(device: Device, what: Mapping[str, Any]) -> str:
    return json.dumps([device.identity, device.engine, device.version, dict(what)], sort_keys=True)


def _file(device: Device, what: Mapping[str, Any]) -> Path:
    return folder() / f"{hashlib.sha256(_identity(device, what).encode()).hexdigest()[:24]}.json"
