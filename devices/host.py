"""The machine edgec runs on: its profile as the system tells it, and its rates, measured once."""

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
    """This machine, read in milliseconds; nothing is measured.

    Attributes:
        name: one line to put beside a latency: `AMD EPYC, 2 cores`.
        processor: what the system tells.
    """

    name: str
    processor: Processor

    def to_dict(self) -> dict[str, object]:
        """As plain data, for JSON: the name and the processor's fields."""
        return {"name": self.name, **dataclasses.asdict(self.processor)}


@dataclasses.dataclass(frozen=True)
class MeasuredRates:
    """This machine's rates and when they were measured.

    Attributes:
        rates: the rates.
        measured_at: when, ISO 8601 in UTC.
        packages: versions of the packages that measured.
    """

    rates: Rates
    measured_at: str
    packages: dict[str, str]

    def to_dict(self) -> dict[str, object]:
        """As plain data, for JSON."""
        return {
            **dataclasses.asdict(self.rates),
            "products": [dataclasses.asdict(product) for product in self.rates.products],
            "measured_at": self.measured_at,
            "packages": dict(self.packages),
        }


def host_profile() -> HostProfile:
    """This machine's profile."""
    processor = read_processor()
    cores = processor.usable_cores
    return HostProfile(f"{processor.model}, {cores} {'core' if cores == 1 else 'cores'}", processor)


def measured_rates(*, again: bool = False) -> MeasuredRates:
    """This machine's rates, from the cache where this processor was measured with these packages.

    Args:
        again: measure now (about four seconds) and replace what is cached.
    """
    processor, packages = read_processor(), _versions()
    path = _cache_file(processor, packages)
    kept = None if again else _read_cache(path)
    if kept is None:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        kept = (measure_rates(processor.usable_cores), now)
        _write_cache(path, *kept)
    return MeasuredRates(*kept, packages)


def cache_folder() -> Path:
    """Where measurements are kept: `edgec` under `$XDG_CACHE_HOME`, or under `~/.cache`."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG base directory specification: a relative path is invalid and ignored.
    return (base if base.is_absolute() else Path.home() / ".cache") / "edgec"


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
