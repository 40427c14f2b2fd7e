"""The text of a plan: read, written, and refused with what there is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgec.core.errors import RequestError
from edgec.passes.slim.plan import SlimPlan, share_kept
from edgec.passes.slim.units import Branch, Unit

UNITS = [
    Unit("mlp:blocks.0.mlp", "mlp", "blocks.0.mlp", 768),
    Unit("mlp:blocks.1.mlp", "mlp", "blocks.1.mlp", 768, step=8),
    Unit("heads:blocks.0.attn", "heads", "blocks.0.attn", 3),
    Unit("block:blocks.1", "block", "blocks.1", 1, branches=((Branch("a", 0), Branch("b", 0)),)),
]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("off", {}),
        ("mlp:blocks.0.mlp=192", {"mlp:blocks.0.mlp": 192}),
        ("mlp=0.25", {"mlp:blocks.0.mlp": 192, "mlp:blocks.1.mlp": 192}),
        ("heads=0.01", {"heads:blocks.0.attn": 1}),
        ("all=0.5+block:blocks.1=0", {
            "mlp:blocks.0.mlp": 384, "mlp:blocks.1.mlp": 384, "heads:blocks.0.attn": 2, "block:blocks.1": 0,
        }),
        ("mlp=0.5 + mlp:blocks.1.mlp=768", {"mlp:blocks.0.mlp": 384}),
        ("block=0", {"block:blocks.1": 0}),
    ],
)  # fmt: skip
def test_a_plan_is_read(text: str, kept: dict[str, int]) -> None:
    assert dict(SlimPlan.parse(text, UNITS).kept) == kept


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "mlp:blocks.0.mlp": st.integers(1, 767),
            "mlp:blocks.1.mlp": st.integers(1, 95).map(lambda steps: steps * 8),
            "heads:blocks.0.attn": st.integers(1, 2),
            "block:blocks.1": st.just(0),
        },
    )
)
def test_its_name_says_it_all(kept: dict[str, int]) -> None:
    plan = SlimPlan(kept)
    assert SlimPlan.parse(plan.name, UNITS) == plan


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mlp", "'mlp' is no part of a plan"),
        ("mlp=lots", "mlp=lots is no share"),
        ("mlp=1.5", "mlp=1.5 is no share"),
        ("residual=0.5", "no unit of kind residual; it has: block, heads, mlp"),
        ("mlp:blocks.0.mpl=3", "did you mean mlp:blocks.0.mlp"),
        ("mlp:blocks.0.mlp=0", "keep a number from 1 to 768"),
        ("mlp:blocks.1.mlp=12", "a multiple of 8"),
        ("heads:blocks.0.attn=4", "keep a number from 1 to 3"),
        ("block:blocks.1=2", "keep a number from 0 to 1"),
    ],
)
def test_what_is_wrong_is_said_with_what_there_is(text: str, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        SlimPlan.parse(text, UNITS)


def test_a_plan_of_another_graph_is_refused() -> None:
    with pytest.raises(RequestError, match=r"no unit 'mlp:layers\.7\.mlp'"):
        SlimPlan({"mlp:layers.7.mlp": 3}).check(UNITS)


def test_a_share_keeps_whole_steps() -> None:
    assert share_kept(UNITS[1], 0.3) == 232
    assert share_kept(UNITS[3], 0.2) == 0
