"""Device profiles: what vendors publish of a device, each figure with the document it is from.

A profile is one TOML file in `profiles/`. Figures are tables `{ value = …, source = "KEY" }`, where
`KEY` names an entry of the file's `[sources]`; a figure that no vendor document gives is left out.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import tomllib
from collections.abc import Mapping
from pathlib import Path

from edgec.core.errors import RequestError

_FOLDER = Path(__file__).parent / "profiles"

KINDS = ("jetson", "iphone", "ipad")
"""The families of devices that profiles describe."""

COMPUTE_FIGURES: dict[str, str] = {
    "cuda_cores": "CUDA cores",
    "tensor_cores": "Tensor cores",
    "sm": "CUDA compute capability times ten (87 is sm_87)",
    "gpu_cores": "GPU cores",
    "gpu_max_mhz": "highest GPU clock, MHz",
    "cpu_cores": "CPU cores",
    "fp16_dense_tflops": "GPU, fp16 without sparsity, TFLOP/s",
    "int8_dense_tops": "GPU and accelerators, int8 without sparsity, TOP/s",
    "int8_sparse_tops": "GPU and accelerators, int8 with 2:4 sparsity, TOP/s",
    "fp8_dense_tflops": "GPU, fp8 without sparsity, TFLOP/s",
    "fp4_sparse_tflops": "GPU, fp4 with 2:4 sparsity, TFLOP/s",
    "npu_cores": "cores of the neural processor (DLA engines, Neural Engine cores)",
    "npu_tops": "neural processor, TOP/s as the vendor states them (the precision is not always said)",
}
"""The figures that `[compute]` may hold, with their units."""

MEMORY_FIGURES: dict[str, str] = {
    "capacity_gb": "memory, GB",
    "bandwidth_gbps": "theoretical peak memory bandwidth, GB/s",
    "bus_bits": "memory bus width, bits",
}
"""The figures that `[memory]` may hold, with their units."""


@dataclasses.dataclass(frozen=True)
class Document:
    """A vendor document.

    Attributes:
        title: its title, with its number and version where it has them.
        url: a public address of it.
    """

    title: str
    url: str


@dataclasses.dataclass(frozen=True)
class Figure:
    """A published figure.

    Attributes:
        value: the figure, in the unit its name gives (`COMPUTE_FIGURES`, `MEMORY_FIGURES`).
        source: the document it is from.
        note: what to know about it: a condition, or how it follows from what is printed.
    """

    value: float
    source: Document
    note: str = ""


@dataclasses.dataclass(frozen=True)
class PowerMode:
    """A power mode that the device can be put into.

    Attributes:
        name: the vendor's name.
        watts: the module's budget; None where the mode has none.
        source: the document it is from.
    """

    name: str
    watts: float | None
    source: Document


@dataclasses.dataclass(frozen=True)
class Software:
    """A system release of the device and the engines it carries.

    Attributes:
        release: the release, `JetPack 6.2` or `iOS 17`.
        tensorrt: the TensorRT version it ships; empty where it has none.
        cuda: the CUDA version it ships; empty where it has none.
        source: the document it is from.
        note: what to know about it.
    """

    release: str
    tensorrt: str
    cuda: str
    source: Document
    note: str = ""


@dataclasses.dataclass(frozen=True)
class DeviceProfile:
    """What is published of one device.

    Attributes:
        name: what users write, `jetson-orin-nano-8gb`.
        title: the vendor's name.
        vendor: who makes it.
        kind: one of `KINDS`.
        chip: the system on chip.
        compute: figures by name, see `COMPUTE_FIGURES`.
        memory: figures by name, see `MEMORY_FIGURES`.
        power_modes: in the vendor's order.
        software: oldest release first.
        notes: one sentence each.
        origin: the file it was read from.
    """

    name: str
    title: str
    vendor: str
    kind: str
    chip: str
    compute: Mapping[str, Figure]
    memory: Mapping[str, Figure]
    power_modes: tuple[PowerMode, ...]
    software: tuple[Software, ...]
    notes: tuple[str, ...]
    origin: str

    def to_dict(self) -> dict[str, object]:
        """The profile as plain data, for JSON."""
        fields = dataclasses.asdict(dataclasses.replace(self, compute={}, memory={}))
        fields["compute"] = {key: dataclasses.asdict(figure) for key, figure in self.compute.items()}
        fields["memory"] = {key: dataclasses.asdict(figure) for key, figure in self.memory.items()}
        return fields


def profiles() -> list[DeviceProfile]:
    """All profiles that come with edgec, in the order of their names."""
    return list(_builtin().values())


def profile(name: str) -> DeviceProfile:
    """The profile of that name, or of that path where the name ends in `.toml`.

    Raises:
        RequestError: no such profile (suggests the nearest) or a malformed file.
    """
    if name.endswith(".toml"):
        return read_profile(Path(name))
    known = _builtin()
    found = known.get(name.lower())
    if found is None:
        near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.4)
        fix = f"did you mean {', '.join(near)}" if near else f"known are {', '.join(known)}"
        raise RequestError(f"no device profile is named {name!r}", fix=f"{fix}, or give a .toml file")
    return found


def read_profile(path: Path) -> DeviceProfile:
    """Read and check a profile.

    Raises:
        RequestError: the file is missing, is not TOML, or breaks a rule; names the field.
    """
    try:
        fields = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = error.strerror or str(error)
        raise RequestError(f"cannot be read ({reason})", where=str(path), fix="check the path") from error
    except ValueError as error:
        raise RequestError(f"is not valid TOML ({error})", where=str(path), fix="correct the file") from error
    return _Reader(fields, str(path)).profile()


@functools.cache
def _builtin() -> dict[str, DeviceProfile]:
    known: dict[str, DeviceProfile] = {}
    for path in sorted(_FOLDER.glob("*.toml")):
        found = read_profile(path)
        if found.name != path.stem:
            raise RequestError(f"the name is {found.name!r}, the file's is {path.stem!r}", where=str(path))
        known[found.name] = found
    return dict(sorted(known.items()))


class _Reader:
    """Checks a parsed file field by field, so that an error can name the field."""

    def __init__(self, fields: Mapping[str, object], origin: str) -> None:
        self._fields = fields
        self._origin = origin
        self._documents: dict[str, Document] = {}
        self._used: set[str] = set()

    def profile(self) -> DeviceProfile:
        allowed = tuple(field.name for field in dataclasses.fields(DeviceProfile) if field.name != "origin")
        self._only(self._fields, (*allowed, "sources"), "")
        self._documents = self._read_documents()
        kind = self._text("kind")
        if kind not in KINDS:
            raise self._error("kind", f"is {kind!r}", f"use one of {', '.join(KINDS)}")
        notes = self._fields.get("notes", [])
        if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
            raise self._error("notes", "is not a list of sentences", 'write notes = ["…"]')
        found = DeviceProfile(
            name=self._text("name"),
            title=self._text("title"),
            vendor=self._text("vendor"),
            kind=kind,
            chip=self._text("chip"),
            compute=self._figures("compute", COMPUTE_FIGURES),
            memory=self._figures("memory", MEMORY_FIGURES),
            power_modes=tuple(
                self._power_mode(entry, f"power_modes[{index}]")
                for index, entry in enumerate(self._tables("power_modes"))
            ),
            software=tuple(
                self._software(entry, f"software[{index}]")
                for index, entry in enumerate(self._tables("software"))
            ),
            notes=tuple(notes),
            origin=self._origin,
        )
        unused = sorted(set(self._documents) - self._used)
        if unused:
            raise self._error(f"sources.{unused[0]}", "is used by no figure", "remove it")
        return found

    def _read_documents(self) -> dict[str, Document]:
        tables = self._table("sources")
        documents: dict[str, Document] = {}
        for key, entry in tables.items():
            where = f"sources.{key}"
            if not isinstance(entry, dict):
                raise self._error(where, "is not a table", 'write { title = "…", url = "https://…" }')
            self._only(entry, ("title", "url"), where)
            title, url = self._text("title", entry, where), self._text("url", entry, where)
            if not url.startswith(("https://", "http://")):
                raise self._error(f"{where}.url", f"is {url!r}", "give a public http(s) address")
            documents[key] = Document(title, url)
        return documents

    def _figures(self, section: str, known: Mapping[str, str]) -> dict[str, Figure]:
        figures: dict[str, Figure] = {}
        for key, entry in self._table(section).items():
            where = f"{section}.{key}"
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                fix = f"did you mean {near[0]}" if near else f"known are {', '.join(known)}"
                raise self._error(where, "is not a known figure", fix)
            if not isinstance(entry, dict):
                raise self._error(where, "has no source", 'write { value = …, source = "KEY" }')
            self._only(entry, ("value", "source", "note"), where)
            figures[key] = Figure(
                self._positive("value", entry, where),
                self._document(entry, where),
                self._text("note", entry, where) if "note" in entry else "",
            )
        return figures

    def _power_mode(self, entry: Mapping[str, object], where: str) -> PowerMode:
        self._only(entry, ("name", "watts", "source"), where)
        watts = self._positive("watts", entry, where) if "watts" in entry else None
        return PowerMode(self._text("name", entry, where), watts, self._document(entry, where))

    def _software(self, entry: Mapping[str, object], where: str) -> Software:
        self._only(entry, ("release", "tensorrt", "cuda", "source", "note"), where)
        return Software(
            release=self._text("release", entry, where),
            tensorrt=self._text("tensorrt", entry, where) if "tensorrt" in entry else "",
            cuda=self._text("cuda", entry, where) if "cuda" in entry else "",
            source=self._document(entry, where),
            note=self._text("note", entry, where) if "note" in entry else "",
        )

    def _document(self, entry: Mapping[str, object], where: str) -> Document:
        key = self._text("source", entry, where)
        if key not in self._documents:
            listed = ", ".join(self._documents) or "none"
            raise self._error(
                f"{where}.source", f"names {key!r}, not in [sources] ({listed})", "add it there"
            )
        self._used.add(key)
        return self._documents[key]

    def _table(self, key: str) -> Mapping[str, object]:
        value = self._fields.get(key, {})
        if not isinstance(value, dict):
            raise self._error(key, "is not a table", f"write [{key}]")
        return value

    def _tables(self, key: str) -> list[Mapping[str, object]]:
        value = self._fields.get(key, [])
        if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
            raise self._error(key, "is not a list of tables", f"write [[{key}]]")
        return value

    def _text(self, key: str, table: Mapping[str, object] | None = None, where: str = "") -> str:
        value = (self._fields if table is None else table).get(key)
        path = f"{where}.{key}" if where else key
        if value is None:
            raise self._error(path, "is missing", f'add {key} = "…"')
        if not isinstance(value, str) or not value.strip():
            raise self._error(path, f"is {value!r}, not text", f'write {key} = "…"')
        return value

    def _positive(self, key: str, table: Mapping[str, object], where: str) -> float:
        value = table.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise self._error(f"{where}.{key}", f"is {value!r}", "give a number above zero")
        return value

    def _only(self, table: Mapping[str, object], allowed: tuple[str, ...] | list[str], where: str) -> None:
        for key in table:
            if key not in allowed:
                near = difflib.get_close_matches(key, allowed, n=1)
                fix = f"did you mean {near[0]}" if near else f"known are {', '.join(allowed)}"
                raise self._error(f"{where}.{key}" if where else key, "is not a known field", fix)

    def _error(self, field: str, what: str, fix: str) -> RequestError:
        return RequestError(f"{field} {what}", where=self._origin, fix=fix)
