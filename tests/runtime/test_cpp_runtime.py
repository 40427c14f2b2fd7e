"""The C++ runtime, built by its own CMakeLists.txt, on the wheels' engines: Python's answers and refusals."""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_bundles import write_bundle

from edgec.core import bundle as bundles
from edgec.core.errors import EdgecError
from edgec.packaging.cpp_sources import library_here, write_library
from edgec.runtime.engine_openvino import PRECISION_HINTS
from edgec.runtime.machine import NEEDS
from edgec.runtime.session import load

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, ("cmake", "g++"))), reason="needs cmake and a C++ compiler"
)

THREADS = Path(__file__).parent / "cpp_threads.cpp"
KINDS = ("ort", "openvino")


def library(kind: str) -> str:
    """The library of an engine inside its wheel."""
    found = library_here(kind)
    if found is None:
        pytest.skip(f"the engine {kind} is not installed, or brings no library of its own")
    return str(found)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prefix that the library and the example are installed under."""
    folder = tmp_path_factory.mktemp("cpp")
    (folder / "sources").mkdir()
    write_library(folder / "sources")
    options = ["-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS_DEBUG=-O0"]
    build(folder / "sources", folder / "made", *options)
    command = ["cmake", "--install", str(folder / "made"), "--prefix", str(folder / "prefix")]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "prefix"


def build(source: Path, made: Path, *options: str) -> None:
    for command in (
        ["cmake", "-S", str(source), "-B", str(made), *options],
        ["cmake", "--build", str(made), "--parallel", "2"],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def ran(installed: Path, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(installed / "bin" / "edgec-run"), *map(str, words)], capture_output=True, text=True
    )


def feeds(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, 4)).astype(np.float32)
    return {"x": x, "ids": rng.integers(-9, 9, rows, dtype=np.int64)}


def words_of(arrays: dict[str, np.ndarray], folder: Path) -> list[str]:
    for name, array in arrays.items():
        np.save(folder / f"{name}.in.npy", array)
    return [f"{name}={folder / name}.in.npy" for name in arrays]


def resealed(path: Path, **fields: Any) -> None:
    manifest = json.loads((path / bundles.MANIFEST).read_text())
    bundles.seal(path, {**manifest, **fields})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [2, "batch"])
def test_it_answers_as_python_does(installed: Path, tmp_path: Path, kind: str, batch: Any) -> None:
    path, _ = write_bundle(tmp_path, kind, batch)
    for rows in (2,) if batch == 2 else (3, 1):
        arrays = feeds(rows, rows)
        command = ["run", path, *words_of(arrays, tmp_path), "--output", tmp_path, "--engine", library(kind)]
        done = ran(installed, *command)
        assert done.returncode == 0, done.stderr
        assert f"y float32 [{rows}, 3]\nn int64 [{rows}]\n" == done.stdout
        with load(path) as session:
            expected = session.run(arrays)
        for name, array in expected.items():
            np.testing.assert_allclose(np.load(tmp_path / f"{name}.npy"), array, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_threads_do_not_see_each_other(installed: Path, tmp_path: Path, kind: str) -> None:
    path, _ = write_bundle(tmp_path, kind, 2)
    program = tmp_path / "threads"
    lib = installed / "lib"
    command = ["g++", "-std=c++17", "-O0", f"-I{installed / 'include'}", "-o", str(program), str(THREADS)]
    subprocess.run([*command, f"-L{lib}", f"-Wl,-rpath,{lib}", "-ledgec_runtime", "-lpthread"], check=True)
    done = subprocess.run([str(program), str(path), library(kind)], capture_output=True, text=True)
    assert done.stdout == "0 wrong, 40 bytes each\n"


def test_the_interface_is_c_and_cmake_finds_it(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "main.c").write_text(
        "#include <edgec_runtime.h>\n#include <stdio.h>\n"
        'int main(void) { edgec_session *s; int status = edgec_open("none", NULL, &s);\n'
        'printf("%d %s\\n", status, edgec_message()); return 0; }\n'
    )
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.16)\nproject(app C CXX)\nfind_package(edgec_runtime REQUIRED)\n"
        "add_executable(app main.c)\ntarget_link_libraries(app edgec::edgec_runtime)\n"
        "target_compile_options(app PRIVATE -Wall -Wextra -Wpedantic -Werror -std=c99)\n"
    )
    build(tmp_path, tmp_path / "made", f"-DCMAKE_PREFIX_PATH={installed}")
    done = subprocess.run([str(tmp_path / "made" / "app")], capture_output=True, text=True)
    assert done.stdout == "2 none: no such bundle; name the folder that compile wrote\n"


def flip(path: Path) -> None:
    """Change one byte in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def edit_engine(path: Path, **fields: Any) -> None:
    place = path / "engine" / "engine.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), **fields}))
    resealed(path)


def link(path: Path) -> None:
    (path / "samples").symlink_to("/etc")


def other_plugin(path: Path) -> None:
    """A library for a processor of another kind: an ELF header of a SPARC."""
    (path / "engine" / "op.so").write_bytes(b"\x7fELF" + bytes(14) + b"\x02\x00" + bytes(8))
    edit_engine(path, extensions=["op.so"])


OTHER = "aarch64" if platform.machine() == "x86_64" else "x86_64"
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a changed engine": (lambda path: flip(path / "engine" / "model.onnx"), "changed after it was written"),
    "a changed manifest": (
        lambda path: (path / bundles.MANIFEST).write_text(
            (path / bundles.MANIFEST).read_text().replace('"samples": 0', '"samples": 1')
        ),
        "changed after it was written",
    ),
    "a cut manifest": (
        lambda path: (path / bundles.MANIFEST).write_text((path / bundles.MANIFEST).read_text()[:-40]),
        "",
    ),
    "a missing file": (lambda path: (path / "io.json").unlink(), "is missing from the bundle"),
    "a file more": (lambda path: (path / "engine" / "more").write_text("x"), "is not part of the bundle"),
    "a link": (link, "plain files and folders only"),
    "a newer schema": (lambda path: _newer(path), "schema"),
    "another processor": (lambda path: resealed(path, device={"architecture": OTHER}), f"on {OTHER}"),
    "a model outside": (lambda path: edit_engine(path, model="../x.onnx"), "not a file of its own folder"),
    "an unknown engine": (lambda path: edit_engine(path, kind="tensorrt"), "engine"),
    "a plugin of another processor": (other_plugin, "is a library for another processor"),
    "no threads": (lambda path: edit_engine(path, threads=-1), "description"),
}


def _newer(path: Path) -> None:
    resealed(path)
    manifest = json.loads((path / bundles.MANIFEST).read_text())
    manifest["schema"] = 99
    (path / bundles.MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize("damage", DAMAGE)
def test_it_refuses_what_python_refuses_before_any_library_loads(
    installed: Path, tmp_path: Path, damage: str
) -> None:
    path, _ = write_bundle(tmp_path, "ort", 2)
    spoil, sentence = DAMAGE[damage]
    spoil(path)
    with pytest.raises(EdgecError) as refused:
        load(path)
    # Were the engine's library looked for first, its absence would be told.
    done = ran(installed, "run", path, *words_of(feeds(2), tmp_path), "--engine", tmp_path / "no.so")
    assert done.returncode == refused.value.exit_status
    assert sentence in done.stderr
    assert "no.so" not in done.stderr


def test_what_precisions_rest_on_is_pythons_own_table(tmp_path: Path) -> None:
    write_library(tmp_path)
    text = (tmp_path / "source" / "needs.hpp").read_text()
    for precision, need in NEEDS.items():
        row = text[text.index(f'{{"{precision}", {{') :].split("}")[0]
        assert set(re.findall(r'"([^"]+)"', row)) == {precision, *need.any_of}
        assert f'"{need.why}"' in text
    for ours, theirs in PRECISION_HINTS.items():
        assert f'{{"{ours}", "{theirs}"}}' in text


def test_an_older_engine_is_refused(installed: Path, tmp_path: Path) -> None:
    path, _ = write_bundle(tmp_path, "ort", 2)
    resealed(path, tools={"onnxruntime": "999.1"})
    done = ran(installed, "run", path, *words_of(feeds(2), tmp_path), "--engine", library("ort"))
    assert done.returncode == 1
    assert "verified with onnxruntime 999.1" in done.stderr


WRONG = {
    "another shape": {"x": np.zeros((2, 5), np.float32)},
    "another type": {"x": np.zeros((2, 4), np.float64)},
    "another rank": {"x": np.zeros((2, 4, 1), np.float32)},
}


@pytest.mark.parametrize("what", WRONG)
def test_feeds_that_do_not_fit_are_refused(installed: Path, tmp_path: Path, what: str) -> None:
    path, _ = write_bundle(tmp_path, "ort", 2)
    arrays = {**feeds(2), **WRONG[what]}
    done = ran(installed, "run", path, *words_of(arrays, tmp_path), "--engine", library("ort"))
    assert done.returncode == 2
    assert "feed x: float32 [2, 4]" in done.stderr


def test_open_sizes_must_agree(installed: Path, tmp_path: Path) -> None:
    path, _ = write_bundle(tmp_path, "ort", "batch")
    arrays = {**feeds(3), "ids": np.zeros(2, np.int64)}
    done = ran(installed, "run", path, *words_of(arrays, tmp_path), "--engine", library("ort"))
    assert done.returncode == 2
    assert "feed ids: int64 [batch]" in done.stderr
