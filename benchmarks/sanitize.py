"""The kernels for processors under AddressSanitizer and UBSan, on drawn and on hostile calls.

Command::

    python benchmarks/sanitize.py [CALLS]     # 10000 where none are given

Each call is drawn as the conformance test draws it; every second one is then made hostile: attributes of any
size and sign, places and ends of sequences outside the tokens, sizes of 0, values that are no numbers. A
kernel may refuse such a call. It may not read or write outside its tensors, nor count beyond its integers.
"""

from __future__ import annotations

import ctypes
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "plugins"))

FLAGS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O2", "-g", "-fno-omit-frame-pointer")
MOST_NUMBERS = 2**22
ANY_INTEGER = (-(2**62), -(2**31), -2, -1, 0, 1, 2, 3, 40, 2**31, 2**62)
ANY_PLACE = (-(2**31), -1, 0, 1, 7, 1000, 2**31 - 1)
ANY_NUMBER = (np.nan, np.inf, -np.inf, 3.0e38, -1.0, 0.0, 1e-40)


def hostile(plugin, feeds: dict, attributes: dict, rng: np.random.Generator) -> tuple[dict, dict]:  # type: ignore[no-untyped-def]
    """A call that no graph should make, its sizes still going together as a binding sees to."""
    attributes = dict(attributes)
    for name, default in plugin.attributes.items():
        if rng.random() < 0.5:
            attributes[name] = (
                float(rng.choice(ANY_NUMBER)) if isinstance(default, float) else int(rng.choice(ANY_INTEGER))
            )
    kept = {}
    empty = rng.choice(["", "", *(size.name or "" for port in plugin.inputs for size in port.sizes)])
    for port in plugin.inputs:
        array = feeds[port.name].copy()
        for axis, size in enumerate(port.sizes):
            if empty and size.name == empty:
                array = array.take([], axis)
        if array.size and rng.random() < 0.5:
            some = rng.integers(0, array.size, 3)
            values = ANY_PLACE if array.dtype == np.int32 else ANY_NUMBER
            if array.dtype != bool:
                array.ravel()[some] = rng.choice(np.array(values), 3).astype(array.dtype)
        kept[port.name] = array
    return kept, attributes


def obeys(plugin, feeds: dict, attributes: dict) -> bool:  # type: ignore[no-untyped-def]
    """Whether a call holds the declared rules, as every binding sees to, and its outputs fit into memory."""
    known = {**plugin.attributes, **attributes}
    for port in plugin.inputs:
        known |= {size.name: length for size, length in zip(port.sizes, feeds[port.name].shape, strict=True)}
    numbers = sum(math.prod(size.value(known) or 0 for size in port.sizes) for port in plugin.outputs)
    return numbers < MOST_NUMBERS and all((rule.room.value(known) or 0) >= 0 for rule in plugin.parsed_rules)


def run(library: Path, calls: int) -> None:
    """Make the calls; the sanitizer ends the process at the first finding."""
    import ml_dtypes
    from drawn import draw

    from edgec.plugins.infra import Kind
    from edgec.plugins.kernels.cpu import build, native

    kernels = ctypes.CDLL(str(library))
    rng = np.random.default_rng(0)
    types = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
    plugins, made, refused = build.with_cpu_kernels(), 0, 0
    while made < calls:
        plugin = plugins[made % len(plugins)]
        feeds, attributes = draw(plugin, rng)
        if made // len(plugins) % 2:
            feeds, attributes = hostile(plugin, feeds, attributes, rng)
        kernel = plugin.kernels["cpu"]
        dtype = types[str(rng.choice(kernel.types))]
        isa = str(rng.choice([each for each in kernel.variants if kernels.edgec_runs(each.encode())]))
        if isa == "amx":
            dtype = types["bfloat16"]
        for port in plugin.inputs:
            if port.kind is Kind.LIKE_FIRST:
                with np.errstate(all="ignore"):
                    feeds[port.name] = feeds[port.name].astype(dtype)
        made += 1
        if not obeys(plugin, feeds, attributes):
            refused += 1
            continue
        try:
            call, _ = native.prepare(plugin, feeds, attributes, isa=isa, kernels=kernels)
            call()
        except (MemoryError, ValueError):
            refused += 1
    print(f"{made} calls of {len(plugins)} kernels, {refused} refused, nothing found")


def main() -> None:
    if len(sys.argv) > 2:
        run(Path(sys.argv[1]), int(sys.argv[2]))
        return
    from edgec.plugins.kernels.cpu.build import compiler, kernel_library

    calls = sys.argv[1] if len(sys.argv) > 1 else "10000"
    library = kernel_library(flags=FLAGS)
    asked = [compiler(), "-print-file-name=libasan.so"]
    runtime = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    # Python itself frees little at its end, and its allocator would hide where an array ends.
    settings = {"LD_PRELOAD": runtime, "ASAN_OPTIONS": "detect_leaks=0", "PYTHONMALLOC": "malloc"}
    done = subprocess.run([sys.executable, __file__, str(library), calls], env={**os.environ, **settings})
    raise SystemExit(done.returncode)


if __name__ == "__main__":
    main()
