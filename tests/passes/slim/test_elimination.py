"""Backward elimination: what can be made good leaves first, and the losses are those of least squares."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.passes.slim.elimination import Layer, eliminate


def lost(x: np.ndarray, weight: np.ndarray, kept: np.ndarray) -> float:
    """What least squares of the kept columns leaves of a layer's outputs."""
    y = x @ weight
    found = np.linalg.lstsq(x[:, kept], y, rcond=None)[0]
    return float(np.square(y - x[:, kept] @ found).sum())


def mixed(rows: int = 600, size: int = 24) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(rows, size)) @ (rng.normal(size=(size, size)) * np.linspace(0.1, 1.0, size))
    return x, rng.normal(size=(size, 7))


def test_a_copy_leaves_first_and_costs_nothing() -> None:
    x, weight = mixed()
    x[:, 4] = 2.0 * x[:, 9] - x[:, 11]
    order = eliminate([Layer(x.T @ x, weight, np.arange(24))], 24, ridge=1e-9)
    assert order.members[0] in (4, 9, 11)
    assert order.lost[1] < 1e-4 * order.lost[-1]


def test_the_losses_are_those_of_least_squares() -> None:
    x, weight = mixed()
    order = eliminate([Layer(x.T @ x, weight, np.arange(24))], 24, ridge=1e-9)
    for count in (4, 12, 20):
        assert order.lost[24 - count] == pytest.approx(lost(x, weight, order.kept(count)), rel=1e-4)


def test_it_beats_leaving_by_energy_and_by_chance() -> None:
    x, weight = mixed()
    order = eliminate([Layer(x.T @ x, weight, np.arange(24))], 24, ridge=1e-9)
    energy = np.argsort(np.square(x).sum(0) * np.square(weight).sum(1))[-12:]
    ours = lost(x, weight, order.kept(12))
    assert ours < lost(x, weight, energy)
    rng = np.random.default_rng(0)
    assert all(ours < lost(x, weight, rng.choice(24, 12, replace=False)) for _ in range(20))


def test_members_of_several_entries_leave_whole() -> None:
    x, weight = mixed()
    members = np.repeat(np.arange(6), 4)
    weight[members == 3] = 0.0
    order = eliminate([Layer(x.T @ x, weight, members)], 6, ridge=1e-9)
    assert order.members[0] == 3
    kept = np.isin(members, order.kept(3))
    assert order.lost[3] == pytest.approx(lost(x, weight, np.flatnonzero(kept)), rel=1e-4)


def test_several_layers_are_weighed_together_and_some_entries_stay() -> None:
    x, weight = mixed()
    members = np.concatenate([[-1, -1], np.arange(22)])
    other = weight.copy()
    other[2] = 100.0
    one = eliminate([Layer(x.T @ x, weight, members)], 22)
    both = eliminate([Layer(x.T @ x, weight, members), Layer(x.T @ x, other, members)], 22)
    assert sorted(one.members) == list(range(22))
    assert both.members[-1] == 0
    assert len(one.lost) == 23


def test_many_members_leave_some_at_a_time_and_the_order_is_whole() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(900, 300)) @ rng.normal(size=(300, 300))
    weight = rng.normal(size=(300, 9))
    order = eliminate([Layer(x.T @ x, weight, np.arange(300))], 300, ridge=1e-9)
    assert sorted(order.members) == list(range(300))
    assert (np.diff(order.lost) >= 0).all()
    assert order.lost[150] == pytest.approx(lost(x, weight, order.kept(150)), rel=1e-3)


def test_dead_members_are_no_obstacle() -> None:
    x, weight = mixed()
    x[:, :5] = 0.0
    order = eliminate([Layer(x.T @ x, weight, np.arange(24))], 24)
    assert set(order.members[:5]) == set(range(5))
    silent = eliminate([Layer(np.zeros((4, 4)), np.ones((4, 2)), np.arange(4))], 4)
    assert sorted(silent.members) == list(range(4))
