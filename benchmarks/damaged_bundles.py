"""Damaged and hostile bundles: each is refused in one sentence before any engine's library is loaded.

python benchmarks/damaged_bundles.py [--count N] [--seed N]

Some are damaged (bytes, lengths, files, links), others are sealed again by somebody who changed what the
description of the engine or the manifest says. What a changed model computes is another matter: hashes show
accidents only.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tables import markdown, publish

from edgec.core import bundle as bundles
from edgec.core.errors import EdgecError
from edgec.runtime.session import load

LIBRARIES = ("onnxruntime", "openvino")
Damage = Callable[[Path, random.Random], None]

WRONG_VALUES = (
    None,
    -1,
    0,
    1e9,
    True,
    [],
    {},
    [1],
    "",
    "x",
    "../x",
    "/etc/passwd",
    "a\x00b",
    "\ud800",
    "x" * 5000,
)


def _file(folder: Path, drawn: random.Random) -> Path:
    return drawn.choice(sorted(path for path in folder.rglob("*") if path.is_file()))


def flipped(folder: Path, drawn: random.Random) -> None:
    path = _file(folder, drawn)
    content = bytearray(path.read_bytes())
    content[drawn.randrange(len(content))] ^= 1 << drawn.randrange(8)
    path.write_bytes(content)


def cut(folder: Path, drawn: random.Random) -> None:
    path = _file(folder, drawn)
    os.truncate(path, drawn.randrange(path.stat().st_size))


def longer(folder: Path, drawn: random.Random) -> None:
    with _file(folder, drawn).open("ab") as file:
        file.write(drawn.randbytes(drawn.randint(1, 100)))


def missing(folder: Path, drawn: random.Random) -> None:
    _file(folder, drawn).unlink()


def added(folder: Path, drawn: random.Random) -> None:
    (folder / drawn.choice(["", "engine", "samples"]) / f"more{drawn.random()}").write_bytes(b"x")


def linked(folder: Path, drawn: random.Random) -> None:
    path = _file(folder, drawn)
    path.unlink()
    path.symlink_to(drawn.choice(["/dev/zero", "/etc/hostname", "nowhere", ".."]))


def swapped(folder: Path, drawn: random.Random) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    one, other = drawn.sample(files, 2)
    first = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(first)


def description_changed(folder: Path, drawn: random.Random) -> None:
    """A description that names another engine, leads out of its folder, or has a field of another kind."""
    path = folder / "engine" / "engine.json"
    fields = json.loads(path.read_text())
    name, wrong = drawn.choice(
        [
            ("kind", drawn.choice(["none", "tensorrt", "coreml", 7, None])),
            ("model", drawn.choice(["../model.onnx", "/etc/passwd", "a/../../b", "", 7, None])),
            ("extensions", [drawn.choice(["../x.so", "/lib/x.so", "missing.so"])]),
            ("threads", drawn.choice([-1, 1e9, "2", None, True])),
            ("layers", drawn.choice([[], 7, {"a": 7}])),
        ]
    )
    path.write_text(json.dumps({**fields, name: wrong}))
    _sealed(folder, {})


def processor_changed(folder: Path, drawn: random.Random) -> None:
    _sealed(folder, {"device": {"architecture": drawn.choice(["aarch64", "sparc", "riscv64"])}})


def version_changed(folder: Path, drawn: random.Random) -> None:
    newer = f"{drawn.randint(100, 999)}.{drawn.randint(0, 9)}"
    _sealed(folder, {"tools": dict.fromkeys(LIBRARIES, newer)})


def manifest_changed(folder: Path, drawn: random.Random) -> None:
    """A field of the manifest, of another kind or unfit, under the old hash of the manifest."""
    path = folder / bundles.MANIFEST
    fields = json.loads(path.read_text())
    name = drawn.choice(sorted(fields))
    fields[name] = drawn.choice([value for value in WRONG_VALUES if value != fields[name]])
    path.write_text(json.dumps(fields))


def _sealed(folder: Path, changes: dict[str, object]) -> None:
    manifest = json.loads((folder / bundles.MANIFEST).read_text())
    bundles.seal(folder, {**manifest, **changes})


KINDS: tuple[Damage, ...] = (
    *(flipped, cut, longer, missing, added, linked, swapped),
    *(description_changed, processor_changed, version_changed, manifest_changed),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    drawn = random.Random(options.seed)
    refused: Counter[str] = Counter()
    wrong: list[list[object]] = []
    with tempfile.TemporaryDirectory(prefix="edgec-damaged-") as scratch:
        whole = Path(scratch) / "whole.x86.edgec"
        _compile(whole)
        for index in range(options.count):
            damage = KINDS[index % len(KINDS)]
            folder = Path(scratch) / "damaged.x86.edgec"
            shutil.copytree(whole, folder)
            damage(folder, drawn)
            try:
                load(folder).close()
                wrong.append([index, damage.__name__, "was opened"])
            except EdgecError as error:
                if "\n" in str(error):
                    wrong.append([index, damage.__name__, "more than a line"])
                refused[damage.__name__] += 1
            except Exception as error:
                wrong.append([index, damage.__name__, repr(error)])
            if loaded := [name for name in LIBRARIES if name in sys.modules]:
                sys.exit(f"{damage.__name__} {index}: {loaded} was loaded")
            shutil.rmtree(folder)
    rows: list[list[object]] = [[name.replace("_", " "), count] for name, count in sorted(refused.items())]
    rows.append(["all", sum(refused.values())])
    body = markdown(["damage", "refused before a library was loaded"], rows)
    if wrong:
        body += "\n\n" + markdown(["bundle", "damage", "what happened"], wrong)
    publish("damaged_bundles", f"{options.count} damaged and hostile bundles", body)
    sys.exit(bool(wrong))


def _compile(place: Path) -> None:
    """Compile in a process of its own: this one must never have loaded an engine."""
    command = [sys.executable, "-m", "edgec.cli.main", "compile", "zoo:vit_digits", "--target", "x86:ort"]
    subprocess.run([*command, "-o", str(place)], check=True, capture_output=True)


if __name__ == "__main__":
    main()
