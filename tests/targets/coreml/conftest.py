"""Fixtures of the Core ML target's tests; all of them are skipped where coremltools is not installed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

sys.path.insert(0, str(Path(__file__).parent))

if __import__("importlib.util").util.find_spec("coremltools") is None:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture
def rng() -> np.random.Generator:
    """Seeded numbers."""
    return np.random.default_rng(7)


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Callable[[Mapping[str, np.ndarray]], list[np.ndarray]]]:
    """Lowers a model, saves the package, reads it back, and gives a function that runs it."""
    from edgec.targets.coreml.checker.interpreter import Interpreter
    from edgec.targets.coreml.checker.package import read
    from edgec.targets.coreml.lowering.program import lower
    from edgec.targets.coreml.package import merged_outputs, save
    from edgec.targets.coreml.versions import release

    def build(model: ir.Model, name: str = "ios18", precision: str = "fp32"):  # type: ignore[no-untyped-def]
        path = tmp_path / "model.mlpackage"
        apart: dict[str, int] = {}
        while True:  # as the target does: outputs that coremltools takes together are computed apart
            lowered = lower(model, release(name), half_inputs=precision == "fp16", apart=apart)
            merged = merged_outputs(lowered, save(lowered, path, release(name), precision))
            if not merged:
                break
            apart |= {output: number for number, output in enumerate(merged, len(apart) + 1)}
        program = Interpreter(read(path))

        def run(feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
            given = {item.name: np.reshape(feeds[item.source], item.mil_shape) for item in lowered.inputs}
            results = program.run(given)
            return [
                np.reshape(results[key], item.shape)
                for key, item in zip(program.outputs, lowered.outputs, strict=True)
            ]

        run.program = program  # type: ignore[attr-defined]
        run.path = path  # type: ignore[attr-defined]
        return run

    return build
