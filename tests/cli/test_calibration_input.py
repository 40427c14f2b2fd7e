"""Calibration data and suites through the command line: one sentence, the right status, nothing written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_line import TOKENS, WIDTH, Command


def _drawn(samples: int = 8, tokens: int = TOKENS) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((samples, tokens, WIDTH)).astype(np.float32)


def _compile(edgec: Command, model: Path, folder: Path, **arrays: np.ndarray):
    np.savez(folder / "calib.npz", **arrays)  # type: ignore[arg-type]
    output = folder / "out.edgec"
    done = edgec(
        "compile",
        model,
        "--target",
        "x86",
        "--precision",
        "int8",
        "--calib",
        folder / "calib.npz",
        "-o",
        output,
    )
    assert not output.exists() or done.status == 0
    return done


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (_drawn(tokens=TOKENS + 1), "has samples of shape"),
        (np.ones((8, TOKENS, WIDTH), np.float32), "holds one value only"),
        (np.full((8, TOKENS, WIDTH), np.nan, np.float32), "has NaN values"),
        (np.full((8, TOKENS, WIDTH), -np.inf, np.float32), "has infinite values"),
        (_drawn(samples=0), "holds no samples"),
        (_drawn().astype(np.float64), "is float64, the model takes float32"),
    ],
    ids=["shape", "constant", "nan", "infinite", "empty", "dtype"],
)
def test_bad_calibration_data(edgec, model_file, tmp_path, array, said):
    done = _compile(edgec, model_file, tmp_path, x=array)
    assert done.status == 2
    assert said in done.err
    assert "calib.npz" in done.err
    assert "Traceback" not in done.err


def test_one_array_without_a_name(edgec, model_file, tmp_path):
    np.save(tmp_path / "calib.npy", _drawn())
    done = edgec("compile", model_file, "--target", "x86", "--calib", tmp_path / "calib.npy")
    assert done.status == 2
    assert "it holds one array without a name" in done.err


def test_int8_without_data(edgec, model_file, tmp_path):
    done = edgec(
        "compile", model_file, "--target", "x86", "--precision", "int8", "-o", tmp_path / "out.edgec"
    )
    assert done.status == 2
    assert "--calib" in done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--suite", "arm"], "no suite is named 'arm'"),
        (["--suite", "x86", "m.onnx"], "a suite measures its own models"),
        (["--suite", "x86", "--tokens", "r=3"], "write off or auto"),
        (["--quick"], "add --suite x86"),
        ([], "name a model or a bundle"),
    ],
    ids=["suite", "model", "tokens", "quick", "nothing"],
)
def test_bad_suites(edgec, arguments, said):
    done = edgec("bench", *arguments)
    assert done.status == 2
    assert said in done.err
