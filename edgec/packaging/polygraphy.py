"""A Jetson bundle as Polygraphy's users expect one: model, plugins, inputs and outputs, and the commands.

Polygraphy (NVIDIA/TensorRT, tools/Polygraphy) compares runners layer by layer and reduces failing models; the
files are written by its own functions. Its comparison takes absolute and relative bounds, edgec's a part of
each output's spread: the commands carry the gate's bound times the spread of each output.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from edgec.core.bundle import PLUGINS, Bundle, writing
from edgec.core.errors import MissingExtraError, RequestError
from edgec.targets.jetson.plan import Plan

INPUTS, OUTPUTS, LOADER, COMMANDS = "inputs.json", "outputs.json", "data_loader.py", "commands.sh"

_LOADER = '''"""Polygraphy's data loader: --data-loader-script data_loader.py."""

from pathlib import Path

import numpy as np


def load_data():
    """The bundle's sample inputs, one dict a sample."""
    for path in sorted(Path(__file__).with_name("samples").glob("*.inputs.npz")):
        with np.load(path) as arrays:
            yield {name: arrays[name] for name in arrays.files}
'''


def write_polygraphy(bundle: Bundle, folder: Path) -> dict[str, Any]:
    """Write a folder for Polygraphy.

    Args:
        bundle: a Jetson bundle.
        folder: where to; nothing is there yet.

    Returns:
        `folder`, `files`, `commands`.

    Raises:
        RequestError: it is no Jetson bundle.
        MissingExtraError: Polygraphy is not installed.
    """
    if not (bundle.engine_folder / "plan.json").is_file():
        raise RequestError(
            "only a Jetson bundle has a graph that TensorRT builds",
            where=str(bundle.path),
            fix="compile with --target jetson",
        )
    if importlib.util.find_spec("polygraphy") is None:
        raise MissingExtraError("polygraphy", "tensorrt")
    plan = Plan.read(bundle.engine_folder)
    feeds, expected = bundle.samples()
    with writing(folder) as scratch:
        for path in sorted(bundle.engine_folder.glob("model*")):
            shutil.copyfile(path, scratch / path.name)
        for name in (PLUGINS, "samples"):
            if (bundle.path / name).is_dir():
                shutil.copytree(bundle.path / name, scratch / name)
        _write_arrays(scratch, feeds, list(expected.references))
        (scratch / LOADER).write_text(_LOADER, encoding="utf-8")
        lines = commands(plan, [dict(one) for one in expected.references])
        (scratch / COMMANDS).write_text("\n".join(lines) + "\n", encoding="utf-8")
        files = sorted(str(path.relative_to(scratch)) for path in scratch.rglob("*") if path.is_file())
    return {"folder": str(folder), "files": files, "commands": [line for line in lines if line[:1] != "#"]}


def _write_arrays(folder: Path, feeds: list[Any], references: list[Any]) -> None:
    """Inputs as `--load-inputs` takes them, and outputs as `--load-outputs` does."""
    # Its log goes to standard output, which is the caller's.
    with contextlib.redirect_stdout(io.StringIO()):
        from polygraphy.comparator import IterationResult, RunResults
        from polygraphy.json import save_json

        save_json([dict(feed) for feed in feeds], str(folder / INPUTS))
        found = [IterationResult(dict(one), runner_name="source") for one in references]
        RunResults([("source", found)]).save(str(folder / OUTPUTS))


def tolerances(plan: Plan, references: list[dict[str, np.ndarray]]) -> dict[str, float]:
    """By output, the gate's bound in the output's own numbers: Polygraphy's `--atol`, with `--rtol 0`."""
    found = {}
    for name in references[0]:
        values = np.concatenate([np.asarray(one[name], np.float64).ravel() for one in references])
        finite = values[np.isfinite(values)]
        found[name] = float(plan.gate.scaled * finite.std()) if finite.size else 0.0
    return found


def commands(plan: Plan, references: list[dict[str, np.ndarray]]) -> list[str]:
    """The lines of `commands.sh`, comments between them."""
    bounds = [f"{name}:{bound:.3g}" for name, bound in tolerances(plan, references).items()]
    types = (
        ["--strongly-typed"] if plan.strongly_typed else [f"--{flag}" for flag in plan.flags if flag != _OBEY]
    )
    if plan.layer_precisions:
        types += ["--precision-constraints", "obey", "--layer-precisions"]
        types += [f"{name}:float{kind[2:]}" for name, kind in plan.layer_precisions.items()]
    loaded = [f"build/{one}" for one in sorted({plugin.library for plugin in plan.plugins})]
    if loaded:
        types += ["--plugins", *loaded]
    if plan.profiles and any(-1 in one.shape for one in plan.inputs):
        for key in ("min", "opt", "max"):
            shapes = [f"{n}:{list(getattr(r, key))}" for n, r in plan.profiles[0].inputs.items()]
            types += [f"--trt-{key}-shapes", *(text.replace(" ", "") for text in shapes)]
    judged = ["--load-inputs", INPUTS, "--atol", *bounds, "--rtol", "0"]
    run = ["polygraphy", "run", plan.model]
    lines = [
        "# The engine against the source's outputs:",
        _line([*run, "--trt", *types, *judged, "--load-outputs", OUTPUTS]),
        "# Layer by layer against ONNX Runtime, which says the first that is off:",
        _line(
            [
                *[*run, "--trt", "--onnxrt", *types, "--load-inputs", INPUTS],
                *["--trt-outputs", "mark", "all", "--onnx-outputs", "mark", "all", "--fail-fast"],
            ]
        ),
    ]
    if not plan.strongly_typed:
        lines += [
            "# Which layers must be fp32:",
            _line(
                ["polygraphy", "debug", "precision", plan.model, "--fp16", "--precision-constraints", "obey"]
            )
            + " --check "
            + _line(
                ["polygraphy", "run", "polygraphy_debug.engine", "--trt", *judged, "--load-outputs", OUTPUTS]
            ),
        ]
    lines += [
        "# The smallest part of the graph that still fails:",
        _line(["polygraphy", "debug", "reduce", plan.model, "-o", "reduced.onnx", "--mode", "bisect"])
        + " --check "
        + _line(
            ["polygraphy", "run", "polygraphy_debug.onnx", "--trt", "--onnxrt", *types, "--atol", "1e-2"]
        ),
    ]
    if loaded:
        compiled = f"cmake -S {PLUGINS} -B build && cmake --build build"
        lines = ["# The plugins, first:", compiled, *lines]
    return lines


_OBEY = "obey_precision_constraints"


def _line(words: list[str]) -> str:
    return " ".join(map(shlex.quote, words))
