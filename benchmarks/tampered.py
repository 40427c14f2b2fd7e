"""Tampered bundles, resealed and not: each is refused or harmless, no native code loaded before the verdict.

    python benchmarks/tampered.py                       # 1,000 bundles
    python benchmarks/tampered.py --bundles 1 --first 17

A sound, signed bundle is broken in one way (`fuzz.py`'s, or a library that leaves a mark when it is loaded is
put into it and named as an extension of its engine) and then

* left as it is: every command must refuse it;
* resealed, its hashes computed again, and the signature demanded: every command that takes `--key` must
  refuse it, since the signature is of other files;
* resealed, no signature demanded: whatever happens is one sentence, nothing outside is written, and the
  library runs only where `run` or `verify` were asked to run the bundle, which is code (SECURITY.md).

Another signature file is nothing where none is demanded. What is otherwise is one line of JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
from fuzz import BUNDLE_KINDS, SIGNATURE, TARGETS, Case, break_bundle, models, reseal, run
from tables import markdown, publish

NATIVE = "native"
SEALS = ("as it is", "resealed, signature demanded", "resealed")
WORDS = (["verify"], ["run"], ["inspect"], ["report", "-o", "r.html"], ["package", "--docker", "-o", "c"])

MARKS = """
#include <stdio.h>
#include <stdlib.h>
__attribute__((constructor)) static void mark(void) {
  FILE *file = fopen(getenv("TAMPERED_MARK"), "w");
  if (file) fclose(file);
}
"""


def put_library(bundle: Path, library: Path) -> None:
    """A library into the engine's folder, named as an extension where the engine's description allows it."""
    engine = bundle / "engine"
    shutil.copy(library, engine / "more.so")
    description = engine / "engine.json"
    if description.is_file():
        fields = json.loads(description.read_text())
        fields["extensions"] = ["more.so"]
        description.write_text(json.dumps(fields))


def tree(folder: Path) -> dict[str, str]:
    """Each path under a folder with what it is and holds; the signature with what it is."""
    found = {}
    for path in sorted(folder.rglob("*")):
        kind = oct(path.lstat().st_mode)
        plain = path.is_file() and not path.is_symlink()
        plain = plain and path.name != SIGNATURE
        content = hashlib.sha256(path.read_bytes()).hexdigest() if plain else ""
        found[path.relative_to(folder).as_posix()] = kind + content
    return found


def tampered(
    number: int, folder: Path, bundles: list[Path], library: Path, key: Path
) -> tuple[Case, str, bool]:
    """The case of a number, how it was sealed, and whether anything is changed."""
    rng = np.random.default_rng(number)
    sound = bundles[int(rng.integers(len(bundles)))]
    broken = folder / "b.edgec"
    shutil.copytree(sound, broken)
    kind = str(rng.choice([*BUNDLE_KINDS, NATIVE, NATIVE]))
    if kind == NATIVE:
        put_library(broken, library)
        where = "more.so"
    else:
        where = break_bundle(broken, kind, sound, rng).name
    changed = tree(broken) != tree(sound)
    seal = SEALS[number % 3]
    if seal != SEALS[0]:
        with contextlib.suppress(OSError, ValueError, AttributeError, TypeError):
            reseal(broken)
    words = WORDS[int(rng.integers(len(WORDS)))]
    if seal == SEALS[1]:
        words = WORDS[int(rng.integers(2))]
        words = [*words, "--key", str(key)]
    return Case(number, f"{kind} {where} in {sound.name}", [words[0], "b.edgec", *words[1:]]), seal, changed


def sign(bundle: Path, folder: Path) -> Path:
    """Sign a bundle; the public key."""
    private, public = folder / "key.pem", folder / "key.pub.pem"
    if not private.exists():
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        made, pem = ec.generate_private_key(ec.SECP256R1()), serialization.Encoding.PEM
        private.write_bytes(
            made.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        public.write_bytes(
            made.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
    import edgec.core.bundle

    edgec.core.bundle.sign(edgec.core.bundle.Bundle.open(bundle), private)
    return public


def main() -> int:
    """Run the cases and print the table; 1 where one is not as it should be."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--bundles", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=math.inf, help="end after so long, with fewer")
    options = parser.parse_args()
    import edgec.compiler
    import edgec.core.signature  # children begin with all of it imported

    counts = {seal: Counter[str]() for seal in SEALS}
    failures = 0
    with tempfile.TemporaryDirectory(prefix="tampered-") as scratch:
        root = Path(scratch)
        onnx.save(models()[0], root / "sound.onnx")
        bundles = []
        for target in TARGETS:
            place = root / f"{target.replace(':', '-')}.edgec"
            bundles.append(edgec.compile(str(root / "sound.onnx"), target=target, output=place).path)
        for bundle in bundles:
            key = sign(bundle, root)
        (root / "marks.c").write_text(MARKS)
        library = root / "marks.so"
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(library), str(root / "marks.c")], check=True)
        mark = root / "mark"
        os.environ["TAMPERED_MARK"] = str(mark)
        end, made = time.monotonic() + options.seconds, 0
        for number in range(options.first, options.first + options.bundles):
            if time.monotonic() > end:
                break
            made += 1
            place = root / str(number) / "case"
            place.mkdir(parents=True)
            case, seal, changed = tampered(number, place, bundles, library, key)
            ended = run(case, place)
            count, wrong = counts[seal], ended.wrong
            count["tampered"] += 1
            count["refused"] += ended.status != 0
            loaded = mark.exists()
            mark.unlink(missing_ok=True)
            count["library loaded"] += loaded
            if wrong is None and changed and seal != SEALS[2] and ended.status == 0:
                wrong = "not refused"
            if wrong is None and loaded and (seal != SEALS[2] or case.arguments[0] not in ("run", "verify")):
                wrong = "its library was loaded"
            if wrong is not None:
                failures += 1
                count["wrong"] += 1
                told = {**dataclasses.asdict(case), **dataclasses.asdict(ended), "wrong": wrong, "seal": seal}
                print(json.dumps(told), flush=True)
            shutil.rmtree(place.parent)
    columns = ("tampered", "refused", "library loaded", "wrong")
    rows = [[seal, *(count[column] for column in columns)] for seal, count in counts.items()]
    body = markdown(("then", *columns), rows)
    publish("tampered", "Tampered bundles", f"{body}\n\n{made} bundles: {failures} wrong.")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
