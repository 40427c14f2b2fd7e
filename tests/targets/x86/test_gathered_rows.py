"""Chains that only move rows become one Gather, whatever they are made of."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2] / "passes"))
from pass_graphs import build, check, i64, ops

from edgec.targets.x86.gathered_rows import GatheredRows

NAME = GatheredRows.name


class Chain:
    """Nodes in ONNX's text form, and the shape that they have come to."""

    def __init__(self, shape: list[int]) -> None:
        self.shape, self.start = shape, list(shape)
        self.lines: list[str] = []
        self.numbers: dict[str, np.ndarray] = {}
        self.value = "x0"

    def _next(self) -> str:
        return f"v{len(self.lines)}"

    def roll(self, axis: int, by: int) -> None:
        """Cut in two and join the other way round."""
        name, sizes = self._next(), [by, self.shape[axis] - by]
        self.numbers[f"{name}s"] = i64(*sizes)
        self.lines.append(
            f"{name}a, {name}b = Split<axis={axis}>({self.value}, {name}s)\n"
            f"{name} = Concat<axis={axis}>({name}b, {name}a)"
        )
        self.value = name

    def turn(self, perm: list[int]) -> None:
        name = self._next()
        self.lines.append(f"{name} = Transpose<perm={perm}>({self.value})")
        self.value, self.shape = name, [self.shape[place] for place in perm]

    def view(self, shape: list[int]) -> None:
        name = self._next()
        self.numbers[f"{name}s"] = i64(*shape)
        self.lines.append(f"{name} = Reshape({self.value}, {name}s)")
        self.value, self.shape = name, shape

    def model(self):  # type: ignore[no-untyped-def]
        body = "\n".join(["x0 = Relu(x)", *self.lines, f"y = Neg({self.value})"])
        return build(f"(float[{','.join(map(str, self.start))}] x) => (y) {{ {body} }}", **self.numbers)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_drawn_chains(data):
    chain = Chain([2, 4, 6, 3])
    axis = data.draw(st.sampled_from([1, 2]))
    chain.roll(axis, data.draw(st.integers(1, chain.shape[axis] - 1)))
    for _ in range(data.draw(st.integers(1, 4))):
        kind = data.draw(st.sampled_from(["roll", "turn", "view"]))
        rank = len(chain.shape)
        if kind == "roll":
            axes = [place for place in range(rank - 1) if chain.shape[place] > 1]
            axis = data.draw(st.sampled_from(axes))
            chain.roll(axis, data.draw(st.integers(1, chain.shape[axis] - 1)))
        elif kind == "turn":
            chain.turn([*data.draw(st.permutations(range(rank - 1))), rank - 1])
        else:
            chain.view(data.draw(st.sampled_from([[48, 3], [2, 24, 3], [4, 2, 6, 3], [2, 2, 2, 3, 2, 3]])))
    chain.roll(0, 1)
    model = chain.model()
    assert check(model, NAME, "canonicalize.dead")[NAME].matched == 1
    assert set(ops(model)) == {"Relu", "Neg", "Gather", "Reshape"}
    assert ops(model)["Gather"] == 1


def test_shifted_windows():
    chain = Chain([1, 6, 6, 4])
    chain.roll(1, 1)
    chain.roll(2, 1)
    chain.view([1, 2, 3, 2, 3, 4])
    chain.turn([0, 1, 3, 2, 4, 5])
    chain.view([4, 9, 4])
    model = chain.model()
    assert check(model, NAME, "canonicalize.dead")[NAME].matched == 1
    assert ops(model) == {"Relu": 1, "Reshape": 2, "Gather": 1, "Neg": 1}


@pytest.mark.parametrize("what", ["turned only", "rolled once", "channels rolled", "channels turned"])
def test_what_one_step_does_already_or_cuts_rows_stays(what):
    chain = Chain([2, 4, 6, 3])
    if what == "turned only":
        chain.turn([0, 2, 1, 3])
        chain.view([12, 4, 3])
        chain.turn([1, 0, 2])
    elif what == "rolled once":
        chain.roll(1, 1)
        chain.view([8, 6, 3])
    elif what == "channels rolled":
        chain.roll(1, 1)
        chain.roll(3, 1)
    else:
        chain.roll(1, 1)
        chain.turn([0, 1, 3, 2])
    model = chain.model()
    before = ops(model)
    assert check(model, NAME)[NAME].matched == 0
    assert ops(model) == before


def test_what_is_read_on_the_way_is_where_the_chain_begins():
    chain = Chain([2, 4, 6, 3])
    chain.roll(1, 1)
    middle = chain.value
    chain.roll(2, 2)
    chain.turn([0, 2, 1, 3])
    body = "\n".join(["x0 = Relu(x)", *chain.lines, f"y = Neg({chain.value})", f"z = Abs({middle})"])
    model = build(f"(float[2,4,6,3] x) => (y, z) {{ {body} }}", **chain.numbers)
    assert check(model, NAME, "canonicalize.dead")[NAME].matched == 1
    assert ops(model)["Concat"] == 1
    assert ops(model)["Gather"] == 1


def test_rows_of_two_values_stay():
    model = build(
        "(float[4,6,3] x) => (y) { a, b = Split<axis=0>(x, s)\n n = Neg(b)\n c = Concat<axis=0>(n, a)\n"
        "t = Transpose<perm=[1,0,2]>(c)\n y = Neg(t) }",
        s=i64(1, 3),
    )
    assert check(model, NAME)[NAME].matched == 0
