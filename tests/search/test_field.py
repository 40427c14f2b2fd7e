"""The field of engines and peers: ratios are of what ran side by side, whatever the machine did later."""

from __future__ import annotations

import contextlib
import time
from types import SimpleNamespace

import numpy as np
import pytest

from edgec.core.disturbance import Patience
from edgec.core.numerics import Expected
from edgec.core.timing import Latency
from edgec.search import field as fields
from edgec.search import trials
from edgec.search.field import best_first, explain, measure_field
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
    chosen = next(best_first(finalists))
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
    choice = Choice(next(best_first(finalists)), [*engines.values(), quick], baselines, best)
    entry = next(entry for entry in choice.entries() if entry["engine"] == "quick")
    assert entry["p50"] == 9.0
    assert entry["ratio_to_best_baseline"] is None


def test_the_form_is_gated_in_fp32_before_the_precision(tmp_path):
    """A lossy engine that happens to be near is not built of a form that computes something else."""
    quantised = Candidate("engine", "int8", "wrong form", rest="fp32", scheme="static")
    references = [{"y": np.linspace(-1, 1, 64, dtype=np.float32)}]
    neutral = SimpleNamespace(examples=[{}], expected=Expected(references), gates={}, is_reduced=False)
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


@pytest.fixture
def again(monkeypatch):
    """Measures the engine as faster than the peer, whatever it was; keeps who ran in how many blocks."""
    ran = []

    def measure(calls, blocks, **_):
        ran.append((sorted(calls), blocks))
        return {name: Latency((1.0 if name == "engine" else 1.2,) * blocks, (1.0,)) for name in calls}

    monkeypatch.setattr(fields, "measure", measure)
    return ran


NOISE = (0.9, 1.1, 1.0, 0.8, 1.2, 1.0)


def tell_apart(found, kinds, seconds=60.0):
    fields._tell_apart(dict.fromkeys(found), found, kinds, time.monotonic() + seconds, Patience())


def test_what_cannot_be_told_apart_runs_again_side_by_side_until_it_can(again):
    found = {
        "engine": Latency(NOISE, NOISE),
        "other": Latency((5.0,) * 6, (5.0,)),
        "peer": Latency((1.0, 1.0, 1.1, 0.9, 1.3, 0.95), (1.0,)),
        "far peer": Latency((9.0,) * 6, (9.0,)),
    }
    tell_apart(found, [["engine", "other"], [], ["peer", "far peer"]])
    assert set(map(str, again)) == {str((["engine", "peer"], fields.BLOCKS_AGAIN))}
    assert len(found["engine"].blocks) == len(found["peer"].blocks) == 6 + len(again) * fields.BLOCKS_AGAIN
    assert found["engine"].ratio_interval(found["peer"]).verdict == "faster"
    ended = len(again)
    tell_apart(found, [["engine", "other"], ["peer", "far peer"]])
    tell_apart(found, [["engine"], []])
    assert len(again) == ended


def test_telling_apart_ends_with_its_blocks_its_time_and_where_nothing_is_at_stake(again, monkeypatch):
    monkeypatch.setattr(fields, "_are_level", lambda latencies: True)
    level = {"one": Latency(NOISE, NOISE), "two": Latency(NOISE[::-1], NOISE)}
    tell_apart(level, [["one"], ["two"]])
    assert fields.MOST_BLOCKS - fields.BLOCKS_AGAIN < len(level["one"].blocks) <= fields.MOST_BLOCKS
    monkeypatch.undo()
    before = len(again)
    tell_apart({"one": Latency(NOISE, NOISE), "two": Latency(NOISE[::-1], NOISE)}, [["one"], ["two"]], 0.0)
    near = Latency(tuple(1.001 * block for block in NOISE), NOISE)
    near = Latency((0.999 * NOISE[0], *near.blocks[1:]), NOISE)
    tell_apart({"one": Latency(NOISE, NOISE), "two": near}, [["one"], ["two"]])
    assert len(again) == before


LOSSY = Candidate("fast", "int8", "f", rest="fp32", scheme="static")
HALF = Candidate("fast", "bf16", "f")
EXACT = Candidate("slow", "fp32", "f")


def finalist(candidate, blocks, tmp_path):
    return Trial(candidate, tmp_path, latency=Latency(tuple(blocks), tuple(blocks)), beside_peers=True)


def test_what_loses_more_ships_only_where_it_is_certainly_faster(tmp_path):
    exact = finalist(EXACT, NOISE, tmp_path)
    # Its median is smaller: the noise could have made that.
    level = finalist(LOSSY, [0.7, 1.2, 0.9, 0.7, 1.1, 0.8], tmp_path)
    assert fields.fastest([exact, level]) is level
    assert fields.shipped([level, exact]) is exact
    explain([exact, level], exact, "the fastest")
    assert level.why.endswith("it loses more, so it had to be faster")
    faster = finalist(LOSSY, [0.9 * block for block in NOISE], tmp_path)
    assert fields.shipped([exact, faster]) is faster
    # Faster than fp32, and level with what only rounds.
    half = finalist(
        HALF, [0.89 * block for block in NOISE[:3]] + [0.92 * block for block in NOISE[3:]], tmp_path
    )
    assert fields.shipped([exact, faster, half]) is half


def test_what_was_known_in_too_few_blocks_does_not_ship_for_its_speed(tmp_path):
    exact, lossy = finalist(EXACT, (1.0,) * 3, tmp_path), finalist(LOSSY, (0.5,) * 3, tmp_path)
    assert fields.shipped([exact, lossy]) is exact


def test_what_the_last_measurement_refutes_is_followed_by_the_next(tmp_path):
    """The lossy engine was the fastest when it was tried; the machine was busy then."""
    exact, half = finalist(EXACT, NOISE, tmp_path), finalist(HALF, [0.8 * block for block in NOISE], tmp_path)
    lossy = finalist(LOSSY, [1.9 * block for block in NOISE], tmp_path)
    assert fields.shipped([lossy, exact, half]) is half


def test_the_best_exact_engine_and_what_a_user_would_run_are_in_the_last_field(tmp_path):
    paces = {}

    def trial(pace, candidate):
        found = Trial(candidate, tmp_path)
        paces[id(found)] = pace
        return found

    lossy = trial(0.5, LOSSY)
    exact = trial(1.0, EXACT)
    slower = trial(1.1, Candidate("slow", "fp32", "g"))
    plain = trial(1.2, Candidate("slow", "fp32", "exported", plain=True))
    doubtful = trial(1.3, Candidate("slow", "fp32", "h"))
    doubtful.latency = Latency((1.3,) * 3, (1.3,), disturbed=3)
    passed = [slower, exact, plain, lossy, doubtful]
    assert fields.last_field(passed, lambda one: paces[id(one)]) == [exact, plain, lossy, doubtful]


def test_the_best_exact_engine_runs_in_every_block_of_the_field(monkeypatch, tmp_path):
    milliseconds = {"fast int8": 0.5, "slow fp32": 1.0}

    def measure(calls, blocks, **_):
        found = {
            name: next(ms for key, ms in milliseconds.items() if name.startswith(key[:6])) for name in calls
        }
        return {name: Latency((each,) * blocks, (each,) * blocks) for name, each in found.items()}

    monkeypatch.setattr(fields, "measure", measure)
    monkeypatch.setattr(fields, "_working_peers", lambda *_: contextlib.nullcontext([]))
    trials_ = [Trial(LOSSY, tmp_path), Trial(EXACT, tmp_path)]
    finalists, _, _ = measure_field(Target(), SimpleNamespace(examples=[{}]), trials_, ["fp32"])
    assert finalists == trials_
    assert fields.shipped(finalists).candidate == LOSSY


def test_a_peer_that_is_faster_is_told(tmp_path):
    chosen = finalist(EXACT, NOISE, tmp_path)
    peers = {
        "ort fp32": Latency(tuple(0.9 * block for block in NOISE), NOISE),
        "openvino fp32": Latency(NOISE[::-1], NOISE),
    }
    explain([chosen], chosen, "the fastest", peers)
    assert chosen.why == "the fastest; plain ort fp32 takes 0.90 to 0.90 of its latency"


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
