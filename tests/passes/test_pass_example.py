"""The example of docs/writing-a-pass.md, run as it stands there."""

import re
from pathlib import Path

import pytest
from pass_graphs import build, check, ops, reasons

from edgec.passes import infra

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "writing-a-pass.md"
NAME = "fuse.hard_swish"
RIGHT = "alpha=0.16666667, beta=0.5"


@pytest.fixture(autouse=True)
def example(monkeypatch):
    """The pass, registered for one test."""
    monkeypatch.setattr(infra, "_REGISTRY", dict(infra.registered()))
    code = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert code is not None
    exec(compile(code[1], str(PAGE), "exec"), {})


def graph(gate, product="Mul(x, g)"):
    return build(f"(float[2,3] x) => (float[2,3] y) {{ g = HardSigmoid<{gate}>(x)\n y = {product} }}")


@pytest.mark.parametrize("product", ["Mul(x, g)", "Mul(g, x)"])
def test_the_gate_may_stand_first_or_last(product):
    model = graph(RIGHT, product)
    assert check(model, NAME)[NAME].matched == 1
    assert ops(model) == {"HardSwish": 1}


@pytest.mark.parametrize("gate", ["alpha=0.2, beta=0.5", "alpha=0.16666667, beta=0.7", "beta=0.5"])
def test_another_gate_is_a_near_miss(gate):
    report = check(graph(gate), NAME)[NAME]
    assert report.matched == 0
    assert "HardSwish has x/6 + 1/2" in reasons(report)


def test_a_gate_of_another_value_is_no_match():
    model = build(
        f"(float[2,3] x, float[2,3] z) => (float[2,3] y) {{ g = HardSigmoid<{RIGHT}>(z)\n y = Mul(x, g) }}"
    )
    report = check(model, NAME)[NAME]
    assert (report.matched, report.missed) == (0, ())


def test_a_gate_that_others_read_stays():
    model = build(
        "(float[2,3] x) => (float[2,3] y, float[2,3] z) "
        f"{{ g = HardSigmoid<{RIGHT}>(x)\n y = Mul(x, g)\n z = Neg(g) }}"
    )
    assert check(model, NAME)[NAME].matched == 1
    assert ops(model) == {"HardSigmoid": 1, "HardSwish": 1, "Neg": 1}
