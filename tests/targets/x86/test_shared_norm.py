"""Norms of one tensor: one where scale and shift are the same once they have gone into the layers."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2] / "passes"))
from pass_graphs import build, check, ops, reasons, weight

import edgec.passes.decompose
import edgec.targets.x86.shared_norm

NAME = "x86.shared_norm"
WIDTH = 6


@settings(max_examples=12, deadline=None)
@given(count=st.integers(2, 4), shifts=st.booleans(), seed=st.integers(0, 99))
def test_branches_with_norms_of_their_own(count: int, shifts: bool, seed: int) -> None:
    edgec.passes.decompose.load_passes()
    lines, numbers = [], {}
    for i in range(count):
        numbers[f"g{i}"] = weight(WIDTH, seed=seed + i) + np.float32(1)
        numbers[f"w{i}"] = weight(WIDTH, 4, seed=seed + 10 + i)
        numbers[f"h{i}"] = weight(WIDTH, seed=seed + 20 + i)
        lines.append(f"n{i} = LayerNormalization(x, g{i}{f', h{i}' if shifts else ''})")
        lines.append(f"m{i} = MatMul(n{i}, w{i})\n o{i} = Relu(m{i})")
    outputs = ", ".join(f"o{i}" for i in range(count))
    model = build(
        f"(float[2,5,{WIDTH}] x) => ({outputs}) {{ " + "\n".join(lines) + " }",
        **{name: array for name, array in numbers.items() if shifts or not name.startswith("h")},
    )
    assert check(model, "decompose.norm_affine", NAME)[NAME].matched == count - 1
    assert ops(model)["LayerNormalization"] == 1


@pytest.mark.parametrize("what", ["scale", "epsilon", "output"])
def test_norms_that_differ_stay(what: str) -> None:
    epsilon = "<epsilon=0.5>" if what == "epsilon" else ""
    scale = "h" if what == "scale" else "g"
    second = "y" if what == "output" else "b"
    body = f"a = LayerNormalization(x, g)\n {second} = LayerNormalization{epsilon}(x, {scale})\n z = Neg(a)\n"
    model = build(
        f"(float[2,5,{WIDTH}] x) => (z, y) {{ {body}" + ("" if what == "output" else "y = Neg(b)") + " }",
        g=weight(WIDTH),
        **({"h": weight(WIDTH, seed=1)} if what == "scale" else {}),
    )
    report = check(model, NAME)[NAME]
    assert report.matched == 0
    assert ops(model)["LayerNormalization"] == 2
    assert what == "output" or "is not that of" in reasons(report)
