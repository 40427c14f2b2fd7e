"""A bundle is plain files inside its folder, packed or not; whatever else is refused, resealed or not."""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgec.core import bundle as bundles
from edgec.core.bundle import Bundle, InputsOutputs
from edgec.core.errors import EdgecError, IntegrityError, RequestError
from edgec.core.graph import TensorSpec
from edgec.core.numerics import Expected
from edgec.core.plain_files import is_inside
from edgec.runtime.engine import EngineDescription


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "m.x86.edgec"
    with bundles.writing(folder) as scratch:
        (scratch / "engine").mkdir()
        (scratch / "engine" / "model.onnx").write_bytes(b"model")
        bundles.write_samples(scratch, [{"x": np.ones(1)}], Expected([{"y": np.ones(1)}]))
        spec = TensorSpec("x", (1,), "float64")
        bundles.write_json(scratch / bundles.IO, InputsOutputs((spec,), (spec,), {}, ()).to_json())
        bundles.seal(scratch, {"samples": 1, "engine": "ort", "model": {"name": "m"}})
    return folder


def to_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def to_link(path: Path) -> None:
    path.rename(path.parent.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent.parent / "elsewhere")


def linked_folder(path: Path) -> None:
    private = path.parent.parent.parent / "private"
    private.mkdir()
    (private / "key").write_text("KEY")
    (path.parent / "cache").symlink_to(private)


ODD: dict[str, Callable[[Path], None]] = {
    "a fifo in place of a file": to_fifo,
    "a link to the same bytes": to_link,
    "a linked folder": linked_folder,
    "a dangling link": lambda path: (path.parent / "more").symlink_to("nowhere"),
    "a fifo more": lambda path: os.mkfifo(path.parent / "more"),
    "a line break in a name": lambda path: (path.parent / "a\nb").write_text("x"),
    "a backslash in a name": lambda path: (path.parent / "..\\b").write_text("x"),
    "a name that is no UTF-8": lambda path: (path.parent / "\udc80").write_text("x"),
}


@pytest.mark.parametrize("odd", ODD)
def test_what_is_no_plain_file_is_refused(bundle: Path, odd: str) -> None:
    ODD[odd](bundle / "engine" / "model.onnx")
    with pytest.raises(IntegrityError):
        Bundle.open(bundle)


def test_what_changed_after_opening_is_not_copied(bundle: Path, tmp_path: Path) -> None:
    opened = Bundle.open(bundle)
    linked_folder(bundle / "engine" / "model.onnx")
    bundles.copy_bundle(opened, tmp_path / "copy")
    assert not list((tmp_path / "copy").rglob("key"))
    to_link(bundle / "engine" / "model.onnx")
    with pytest.raises(IntegrityError, match="cannot be read"):
        bundles.copy_bundle(opened, tmp_path / "second")
    (bundle / "engine" / "model.onnx").unlink()
    (bundle / "engine" / "model.onnx").write_bytes(b"other")
    with pytest.raises(IntegrityError, match="changed"):
        bundles.copy_bundle(opened, tmp_path / "third")


@pytest.mark.parametrize(
    "name", ["../x", "/x", "a/../../x", "a//x", ".", "..", "", "a\\b", "C:x", "a\0", 7, None]
)
def test_a_name_that_leads_out_is_none(name: object) -> None:
    assert not is_inside(name)


@pytest.mark.parametrize(
    "change",
    [
        {"model": "../../elsewhere.onnx"},
        {"model": "/etc/passwd"},
        {"extensions": ["../../evil.so"]},
        {"extensions": ["/evil.so"]},
        {"kind": "openvino"},
        {"threads": -1},
        {"threads": "many"},
        {"layers": [1]},
        {"inputs": [1]},
    ],
)
def test_an_engine_names_only_files_of_its_folder(tmp_path: Path, change: dict[str, object]) -> None:
    good = {"kind": "ort", "model": "model.onnx", "precision": "fp32", "threads": 0, "form": "", "layers": {}}
    bundles.write_json(tmp_path / "engine.json", good)
    assert EngineDescription.read(tmp_path).model == "model.onnx"
    bundles.write_json(tmp_path / "engine.json", {**good, **change})
    with pytest.raises(IntegrityError):
        EngineDescription.read(tmp_path)


def zipped(path: Path, names: list[str], **more: object) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            entry = zipfile.ZipInfo(name)
            entry.external_attr = int(more.get("mode", 0o644)) << 16  # type: ignore[call-overload]
            archive.writestr(entry, b"x")
    return path


@pytest.mark.parametrize(
    "names",
    [
        ["../evil"],
        ["/evil"],
        ["b/../../evil"],
        ["b\\..\\evil"],
        ["a/x", "b/x"],
        ["x"],
        [],
        ["b/x", "y"],
    ],
)
def test_a_zip_file_holds_one_folder_and_nothing_outside(tmp_path: Path, names: list[str]) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(RequestError):
        Bundle.open(zipped(tmp_path / "in" / "b.zip", names))
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_link_in_a_zip_file_is_a_file(tmp_path: Path) -> None:
    path = zipped(tmp_path / "b.zip", ["b/manifest.json"], mode=stat.S_IFLNK | 0o777)
    with pytest.raises(EdgecError):
        Bundle.open(path)


def damage_directory(data: bytearray) -> None:
    del data[len(data) - 300 : len(data) - 22]


def damage_method(data: bytearray) -> None:
    data[data.find(b"PK\1\2") + 10] = 0x63


def encrypt(data: bytearray) -> None:
    data[data.find(b"PK\1\2") + 8] |= 1


def damage_data(data: bytearray) -> None:
    data[90:100] = b"\xff" * 10


@pytest.mark.parametrize("damage", [damage_directory, damage_method, encrypt, damage_data])
def test_a_damaged_zip_file_is_one_sentence(bundle: Path, damage: Callable[[bytearray], None]) -> None:
    path = bundles.pack(bundle)
    data = bytearray(path.read_bytes())
    damage(data)
    path.write_bytes(bytes(data))
    with pytest.raises(EdgecError, match="zip file"):
        Bundle.open(path)


@pytest.mark.parametrize("name", ["bundle_bytes", "bundle_files"])
def test_a_zip_bomb_is_not_unpacked(bundle: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    path = bundles.pack(bundle)
    Bundle.open(path)
    monkeypatch.setenv(f"EDGEC_MAX_{name.upper()}", "3")
    with pytest.raises(RequestError, match=f"EDGEC_MAX_{name.upper()}"):
        Bundle.open(path)


@pytest.mark.parametrize(
    "text", ["[" * 200000, '{"schema":1,"x":"\\ud800"}', "\ufeff{}", "7", "null", "{", ""]
)
def test_a_manifest_that_is_none_is_one_sentence(bundle: Path, text: str) -> None:
    (bundle / "manifest.json").write_text(text)
    with pytest.raises(IntegrityError):
        Bundle.open(bundle)


@pytest.mark.parametrize(
    "change",
    [
        {"samples": 0},
        {"samples": "many"},
        {"samples": 10**9},
        {"files": []},
        {"model": "m"},
        {"tools": None},
    ],
)
def test_a_resealed_manifest_of_other_kinds_is_one_sentence(bundle: Path, change: dict[str, object]) -> None:
    sealed = {**Bundle.open(bundle).manifest, **change}
    sealed["sha256"] = bundles._manifest_sha256(sealed)
    bundles.write_json(bundle / "manifest.json", sealed)
    with pytest.raises(IntegrityError):
        Bundle.open(bundle).samples()


def test_a_field_that_a_manifest_lacks_is_named(bundle: Path) -> None:
    with pytest.raises(IntegrityError, match="no field 'precision'"):
        Bundle.open(bundle).manifest["precision"]


@pytest.mark.parametrize("name", ["n" * 300, "dangling", "round", "a\0b"])
def test_a_place_where_nothing_can_be_is_refused_early(tmp_path: Path, name: str) -> None:
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "round").symlink_to("round")
    for check in (bundles.check_writable, bundles.check_writable_file, Bundle.open, bundles.read_arrays):
        with pytest.raises(RequestError):
            check(tmp_path / name)
