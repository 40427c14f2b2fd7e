"""The field of engines and peers: ratios are of what ran side by side, whatever the machine did later."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest

from edgec.core.numerics import Expected
from edgec.core.timing import Latency
from edgec.search import field as fields
from edgec.search import trials
from edgec.search.field import explain, measure_field, ranked_finalists
from edgec.search.trials import Choice, Trial
from edgec.targets.base import Candidate


class Target:
    def open(self, folder):
        return SimpleNamespace(run=lambda feeds: None, close=lambda: None)


@pytest.fixture
def field(monkeypatch, tmp_path):
    """Two near engines, one far behind, two peers; from the second round on all take three times as long."""
    milliseconds = {
        "near": 0.98,
        "nearer": 0.95,
        "far": 2.0,
        "plain ort fp32": 1.5,
        "plain openvino fp32": 4.0,
    }
    engines = {name: Trial(Candidate(name, "fp32", "form"), tmp_path) for name in ("near", "nearer", "far")}
    rounds = iter((1.0, 3.0, 3.0, 3.0))

    def measure(calls, blocks, **_):
        load = next(rounds)
        found = {}
        for name in calls:
            each = load * milliseconds[name.split(" fp32 (")[0]]
            found[name] = Latency((each,) * blocks, (each,) * blocks)
        return found

    peers = [SimpleNamespace(label=f"{name} fp32", run=lambda feeds: None) for name in ("ort", "openvino")]
    monkeypatch.setattr(fields, "measure", measure)
    monkeypatch.setattr(fields, "_working_peers", lambda *_: contextlib.nullcontext(peers))
    neutral = SimpleNamespace(examples=[{}])
    finalists, baselines, best = measure_field(Target(), neutral, list(engines.values()), ["fp32"])
    return engines, finalists, baselines, best


def test_a_loser_of_the_first_round_is_not_compared_with_later_ones(field):
    engines, finalists, baselines, best = field
    chosen = ranked_finalists(finalists)[0]
    assert chosen is engines["nearer"]
    assert set(map(id, finalists)) == {id(engines["near"]), id(engines["nearer"])}
    assert [len(engines[name].latency.blocks) for name in ("near", "far")] == [13, 2]
    explain(list(engines.values()), chosen, "the fastest")
    assert engines["far"].why.startswith("2.11 times")
    # Three times 0.95 is more than the 4 ms of a peer that ran in the first round only.
    assert best == "ort fp32"
    choice = Choice(chosen, list(engines.values()), baselines, best)
    assert choice.ratio == pytest.approx(0.95 / 1.5)
    ratios = {entry["name"]: entry["ratio_to_best_baseline"] for entry in choice.entries()}
    assert ratios["far fp32 (form)"] == pytest.approx(2.0 / 1.5)
    assert ratios["plain openvino fp32"] == pytest.approx(4.0 / 1.5)


def test_what_did_not_run_beside_the_peers_has_no_ratio_to_them(field, tmp_path):
    engines, finalists, baselines, best = field
    quick = Trial(Candidate("quick", "int8", "form"), tmp_path, latency=Latency((9.0,), (9.0,)), why="slower")
    choice = Choice(ranked_finalists(finalists)[0], [*engines.values(), quick], baselines, best)
    entry = next(entry for entry in choice.entries() if entry["engine"] == "quick")
    assert entry["p50"] == 9.0
    assert entry["ratio_to_best_baseline"] is None


def test_the_form_is_gated_in_fp32_before_the_precision(tmp_path):
    """A lossy engine that happens to be near is not built of a form that computes something else."""
    quantised = Candidate("engine", "int8", "wrong form", rest="fp32", scheme="static")
    references = [{"y": np.linspace(-1, 1, 64, dtype=np.float32)}]
    neutral = SimpleNamespace(examples=[{}], expected=Expected(references), gates={})
    built = []

    class Forms:
        def lower(self, graph, candidate):
            return graph

        def build(self, graph, candidate, folder):
            built.append(candidate)

        def open(self, folder):
            off = np.float32(0.5 if built[-1] == quantised.exact else 0.0)
            return SimpleNamespace(run=lambda feeds: {"y": references[0]["y"] + off}, close=lambda: None)

    trial = Trial(quantised, tmp_path / "candidate")
    trials.build(Forms(), neutral, trial)
    assert built == [quantised.exact]
    assert not trial.passed
    assert "failed its gate: engine fp32 (wrong form)" in trial.why


def test_an_engine_and_a_peer_that_cannot_be_told_apart_run_again_side_by_side(monkeypatch):
    ran = []

    def measure(calls, blocks, **_):
        ran.append((sorted(calls), blocks))
        return {name: Latency((1.0 if name == "engine" else 1.2,) * blocks, (1.0,)) for name in calls}

    monkeypatch.setattr(fields, "measure", measure)
    found = {
        "engine": Latency((0.9, 1.1, 1.0, 0.8, 1.2, 1.0), (1.0,)),
        "other": Latency((5.0,) * 6, (5.0,)),
        "peer": Latency((1.0, 1.0, 1.1, 0.9, 1.3, 0.95), (1.0,)),
        "far peer": Latency((9.0,) * 6, (9.0,)),
    }
    fields._tell_apart(dict.fromkeys(found), found, [["engine", "other"], ["peer", "far peer"]])
    assert ran == [(["engine", "peer"], fields.BLOCKS_AGAIN)]
    assert len(found["engine"].blocks) == len(found["peer"].blocks) == 6 + fields.BLOCKS_AGAIN
    assert found["engine"].ratio_interval(found["peer"]).verdict == "faster"
    fields._tell_apart(dict.fromkeys(found), found, [["engine", "other"], ["peer", "far peer"]])
    fields._tell_apart(dict.fromkeys(found), found, [["engine"], []])
    assert len(ran) == 1


def test_a_loser_inside_the_noise_is_said_to_be(tmp_path):
    drift = (1.0, 1.2, 0.9, 1.1, 1.0, 1.3)
    chosen = Trial(Candidate("a", "fp32", "f"), tmp_path, latency=Latency(drift, drift), beside_peers=True)
    near = Trial(
        Candidate("b", "fp32", "f"), tmp_path, latency=Latency(drift[::-1], drift), beside_peers=True
    )
    slow = tuple(1.5 * block for block in drift)
    far = Trial(Candidate("c", "fp32", "f"), tmp_path, latency=Latency(slow, slow), beside_peers=True)
    explain([chosen, near, far], chosen, "the fastest")
    assert chosen.why == "the fastest; b fp32 (f) cannot be told apart from it"
    assert near.why.startswith("cannot be told apart from the chosen engine")
    assert far.why.startswith("1.50 times the chosen engine's latency, between 1.50 and 1.50")
