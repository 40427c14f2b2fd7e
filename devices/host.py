"""The profile of the machine edgec runs on: read from the system, and measured once."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import importlib.metadata
import json
import os
import tempfile
from pathlib import Path

from edgec.devices.cpu import Processor, read_processor
from edgec.devices.rates import ProductRate, Rates, measure_rates

_MEASURING_PACKAGES = ("numpy", "onnxruntime", "openvino", "torch")


@dataclasses.dataclass(frozen=True)
class HostProfile:
    """This machine.

    Attributes:
        processor: what the system tells.
        rates: what was measured; None where nothing has been yet.
        measured_at: when, ISO 8601 in UTC; empty where nothing has been.
        packages: versions of the packages that measured.
    """

    processor: Processor
    rates: Rates | None
    measured_at: str
    packages: dict[str, str]

    @property
    def title(self) -> str:
        """One line that names the machine beside a latency: `AMD EPYC, 2 cores`."""
        cores = self.processor.usable_cores
        return f"{self.processor.model}, {cores} {'core' if cores == 1 else 'cores'}"

    def to_dict(self) -> dict[str, object]:
        """The profile as plain data, for JSON; `title` included."""
        return {"title": self.title, **dataclasses.asdict(self)}


def host_profile(*, measure: bool = True, again: bool = False) -> HostProfile:
    """This machine's profile.

    Args:
        measure: measure the rates where no measurement of this processor with these package versions
            is cached (about three seconds); without it, cached rates or none.
        again: measure even where a measurement is cached, and replace it.
    """
    processor = read_processor()
    packages = _versions()
    cached = _cache_file(processor, packages)
    if not again:
        kept = _read_cache(cached)
        if kept is not None or not measure:
            rates, measured_at = kept or (None, "")
            return HostProfile(processor, rates, measured_at, packages)
    rates = measure_rates(processor.usable_cores)
    measured_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    _write_cache(cached, rates, measured_at)
    return HostProfile(processor, rates, measured_at, packages)


def cache_folder() -> Path:
    """Where measurements are kept: `edgec` under `$XDG_CACHE_HOME`, or under `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG base directory specification: a relative path is invalid and ignored.
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "edgec"


def _versions() -> dict[str, str]:
    versions: dict[str, str] = {}
    for package in _MEASURING_PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _cache_file(processor: Processor, packages: dict[str, str]) -> Path:
    identity = json.dumps([dataclasses.asdict(processor), packages], sort_keys=True)
    return cache_folder() / f"rates-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.json"


def _read_cache(path: Path) -> tuple[Rates, str] | None:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        products = tuple(ProductRate(**entry) for entry in kept["rates"].pop("products"))
        return Rates(products=products, **kept["rates"]), str(kept["measured_at"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None  # missing or written by another version: measured again


def _write_cache(path: Path, rates: Rates, measured_at: str) -> None:
    text = json.dumps({"rates": dataclasses.asdict(rates), "measured_at": measured_at}, indent=1)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
            file.write(text + "\n")
        Path(file.name).replace(path)
    except OSError:
        return  # a home that cannot be written: measured again next time
