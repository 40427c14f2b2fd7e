"""A bundle written for Polygraphy, read and judged by Polygraphy itself; its comparator beside edgec's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("polygraphy")

from jetson_bundle import write_bundle

from edgec.cli.main import run
from edgec.core.bundle import Bundle
from edgec.core.numerics import Expected
from edgec.packaging.polygraphy import tolerances
from edgec.targets.jetson.plan import Plan

WEAK = {
    "tensorrt": "8.5",
    "strongly_typed": False,
    "flags": ["fp16", "obey_precision_constraints"],
    "layer_precisions": {"/fc/MatMul": "fp32"},
}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "b.edgec", **WEAK)


def polygraphy(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    tool = str(Path(sys.executable).with_name("polygraphy"))
    command = [sys.executable, tool, "run", "model.onnx", "--onnxrt", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_polygraphy_runs_what_was_written_and_agrees_with_the_source(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "poly"
    assert run(["export", str(bundle), "--polygraphy", str(folder), "--json"], debug=True) == 0
    text = (folder / "commands.sh").read_text()
    assert "--fp16 --precision-constraints obey --layer-precisions /fc/MatMul:float32" in text
    assert "--trt-min-shapes x:[1,16]" in text.replace("'", "")
    plan, (_, expected) = Plan.read(bundle / "engine"), Bundle.open(bundle).samples()
    (bound,) = tolerances(plan, list(expected.references)).values()
    assert f"--atol y:{bound:.3g} --rtol 0" in text
    judged = ["--load-inputs", "inputs.json", "--load-outputs", "outputs.json", "--atol", f"y:{bound}"]
    done = polygraphy(folder, *judged, "--rtol", "0")
    assert done.returncode == 0, done.stdout + done.stderr
    # Every sample is judged: the last one's output, moved by more than is allowed, is seen.
    from polygraphy.comparator import IterationResult, RunResults

    wrong = [dict(one) for one in expected.references]
    wrong[-1]["y"] = wrong[-1]["y"] + np.float32(2 * bound)
    RunResults([("source", [IterationResult(one, runner_name="source") for one in wrong])]).save(
        str(folder / "outputs.json")
    )
    assert polygraphy(folder, *judged, "--rtol", "0").returncode != 0


def test_the_data_loader_gives_the_samples(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "poly"
    assert run(["export", str(bundle), "--polygraphy", str(folder)], debug=True) == 0
    spread = {"y": 1e9}
    done = polygraphy(
        folder, "--onnxrt", "--data-loader-script", "data_loader.py", "--atol", f"y:{spread['y']}"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    code = (
        "import data_loader, json; print(json.dumps([one['x'].tolist() for one in data_loader.load_data()]))"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
    )
    feeds, _ = Bundle.open(bundle).samples()
    assert np.array_equal(json.loads(said.stdout), [one["x"] for one in feeds])


def test_both_comparators_say_the_same_of_one_number_that_is_off(bundle: Path) -> None:
    """edgec's bound on the largest difference, in Polygraphy's numbers; a thousandth apart is left open."""
    from polygraphy.comparator import CompareFunc, IterationResult

    rng = np.random.default_rng(0)
    plan = Plan.read(bundle / "engine")
    verdicts = []
    for _ in range(60):
        mean, scale = rng.choice([0.0, 1.0, 1e3]), 10.0 ** rng.uniform(-3, 3)
        references = [
            {"y": (mean + scale * rng.standard_normal((4, 500))).astype(np.float64)} for _ in range(2)
        ]
        bound = tolerances(plan, references)["y"]
        part = rng.choice([rng.uniform(0.1, 0.9), rng.uniform(1.1, 3.0)])
        actual = [{"y": one["y"].copy()} for one in references]
        actual[0]["y"][rng.integers(4), rng.integers(500)] += part * bound
        gate = plan.gate
        ours = not gate.broken(Expected(references).difference(actual, gate))
        compare = CompareFunc.simple(atol={"y": bound}, rtol={"y": 0.0})
        theirs = all(
            bool(compare(IterationResult(one), IterationResult(other))["y"])
            for one, other in zip(actual, references, strict=True)
        )
        assert ours == theirs, (mean, scale, part)
        verdicts.append(ours)
    assert 10 < sum(verdicts) < 50


def test_another_bundle_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = write_bundle(tmp_path / "b.edgec")
    (bundle / "engine" / "plan.json").unlink()
    from edgec.core.bundle import seal

    manifest = json.loads((bundle / "manifest.json").read_text())
    seal(bundle, {key: value for key, value in manifest.items() if key not in ("files", "sha256")})
    assert run(["export", str(bundle), "--polygraphy", str(tmp_path / "p")], debug=False) == 2
    assert "only a Jetson bundle has a graph that TensorRT builds" in capsys.readouterr().err
    assert not (tmp_path / "p").exists()
