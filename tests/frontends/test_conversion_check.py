"""The check of a conversion between opsets: beside what the source itself moves by, and nothing beyond."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgec.core.errors import JobError
from edgec.frontends.reference import check_conversion

CLASSES = 4096


def _model(scale: float) -> ir.Model:
    text = f"""<ir_version: 10, opset_import: ["" : 23]>
        m (float[1, {CLASSES}] x) => (float[1, {CLASSES}] y) <float s = {{{scale}}}> {{
        t = Mul (x, s)
        y = Softmax (t)
    }}"""
    return ir.from_proto(onnx.parser.parse_model(text))


def _source(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    # The same in another order: sums of fp32 that differ by their last places, on top of a steep exponential.
    scaled = (feeds["x"] * np.float32(20.0)) * np.float32(15.0)
    raised = np.exp(scaled - scaled.max())
    return {"y": raised / raised.sum(dtype=np.float32)}


def _check(scale: float, folder: Path) -> None:
    drawn = np.random.default_rng(3).uniform(0.9, 1.0, (3, 1, CLASSES)).astype(np.float32)
    feeds = [{"x": row} for row in drawn]
    references = [_source(each) for each in feeds]
    assert (
        check_conversion(_model(scale), 11, feeds, references, folder=folder, where="m", run=_source) is None
    )


def test_what_a_rounding_of_the_inputs_moves_is_no_change(tmp_path: Path) -> None:
    _check(300.0, tmp_path)


@pytest.mark.parametrize("scale", [300.03, 299.9, 310.0])
def test_a_conversion_that_computes_something_else_is_refused(tmp_path: Path, scale: float) -> None:
    with pytest.raises(JobError, match="conversion from opset 11 to 23 changes output 'y'"):
        _check(scale, tmp_path)
