"""Generating: an engine that keeps its caches against whole texts in float64, callers, refusals."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import numpy as np
import pytest
from step_graph import POSITIONS, STOP, VOCABULARY, decoder_graph, greedy, scores, weights

from edgec.core.bundle import InputsOutputs
from edgec.core.decoder import CONTINUATION, IDS, LOGITS, SCORES_FROM
from edgec.core.errors import IntegrityError, RequestError
from edgec.runtime.engine import EngineDescription
from edgec.runtime.engines import open_engine
from edgec.runtime.openvino_states import State
from edgec.runtime.session import Session
from edgec.targets.base import Candidate
from edgec.targets.x86.decoders import DRAFTED
from edgec.targets.x86.target import X86

pytest.importorskip("openvino")

CONSTANTS = weights()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    graph, target = decoder_graph(CONSTANTS), X86()
    path = tmp_path_factory.mktemp("decoder") / "engine"
    path.mkdir()
    (candidate,) = target.candidates(graph, "fp32")
    target.build(target.lower(graph, candidate), candidate, path)
    return path


@pytest.fixture(scope="module")
def session(folder):
    decoder = decoder_graph(CONSTANTS).decoder
    bundle = SimpleNamespace(path=folder, io=InputsOutputs(decoder.inputs, decoder.outputs, {}, ()))
    with Session(bundle, open_engine(folder)) as opened:
        yield opened


@pytest.fixture(scope="module")
def drafted(tmp_path_factory):
    """The same decoder with its own 8 bits as the draft."""
    graph, target = decoder_graph(CONSTANTS), X86()
    path = tmp_path_factory.mktemp("drafted") / "engine"
    path.mkdir()
    candidate = Candidate("openvino", "fp32", DRAFTED)
    target.build(target.lower(graph, candidate), candidate, path)
    bundle = SimpleNamespace(path=path, io=InputsOutputs(graph.inputs, graph.outputs, {}, ()))
    with Session(bundle, open_engine(path)) as opened:
        yield opened


def told(session, prompt, following):
    feeds = {IDS: np.array([prompt]), CONTINUATION: np.array([following], np.int64).reshape(1, -1)}
    return session.run(feeds)[LOGITS][0]


@pytest.mark.parametrize(("prompt", "steps"), [(1, 0), (1, 23), (5, 6), (23, 1), (24, 0)])
def test_scores_of_every_step_are_those_of_the_whole_text(session, prompt, steps):
    text = np.random.default_rng(prompt).integers(0, VOCABULARY, prompt + steps).tolist()
    found = told(session, text[:prompt], text[prompt:])
    assert found.shape == (1 + steps, VOCABULARY)
    np.testing.assert_allclose(found, scores(CONSTANTS, text)[prompt - 1 :], rtol=0, atol=2e-5)


def test_the_caches_are_fused_with_the_attention_that_reads_them(session):
    kinds = [
        layer.get_rt_info()["layerType"].astype(str)
        for layer in session.engine._compiled.get_runtime_model().get_ordered_ops()
    ]
    assert kinds.count("ScaledDotProductAttention") == 1
    # Whatever joins, repeats or weighs a cache by itself copies it in every step.
    assert not {"Concatenation", "Concat", "Tile", "Broadcast", "Softmax"} & set(kinds)


def test_greedy_tokens(session):
    for prompt in ([3, 1, 4], [0], list(range(20))):
        steps = POSITIONS - len(prompt) + 1
        found = session.generate(prompt, steps, stop_tokens=[])
        assert found.dtype == np.int64
        assert found.tolist() == greedy(CONSTANTS, prompt, steps)


def test_a_draft_changes_no_token(session, drafted, monkeypatch):
    checked, feed_rows = [], State.feed_rows
    monkeypatch.setattr(
        State, "feed_rows", lambda state, ids, rows: checked.append(rows) or feed_rows(state, ids, rows)
    )
    for prompt in ([3, 1, 4], [0], [9, 9]):
        steps = POSITIONS - len(prompt) + 1
        assert drafted.generate(prompt, steps, stop_tokens=[]).tolist() == greedy(CONSTANTS, prompt, steps)
        drawn = {"temperature": 0.7, "top_k": 9, "seed": 5}
        expected = session.generate(prompt, steps, stop_tokens=[], **drawn).tolist()
        assert drafted.generate(prompt, steps, stop_tokens=[], **drawn).tolist() == expected
    assert max(checked) > 2
    stop = greedy(CONSTANTS, [3, 1, 4], 20)[4]
    found = drafted.generate([3, 1, 4], 20, stop_tokens=[stop]).tolist()
    assert found == session.generate([3, 1, 4], 20, stop_tokens=[stop]).tolist()


@pytest.mark.parametrize("wrong", [1, 2, 3])
def test_a_draft_that_guesses_wrong_changes_no_token(drafted, monkeypatch, wrong):
    """Every so many guesses one is another token: what was read of it is forgotten."""
    count, feed = [0], State.feed

    def feeds(state, ids):
        scores = feed(state, ids)
        if SCORES_FROM not in state._inputs:
            count[0] += 1
            if count[0] % wrong == 0:
                return np.roll(scores, 1)
        return scores

    monkeypatch.setattr(State, "feed", feeds)
    for prompt in ([3, 1, 4], [7]):
        found = drafted.generate(prompt, 20, stop_tokens=[]).tolist()
        assert found == greedy(CONSTANTS, prompt, 20)
    assert count[0] > 10


def test_a_generation_ends_with_its_stop_token(session):
    free = greedy(CONSTANTS, [3, 1, 4], 12)
    stop = free[4]
    whole = free[: free.index(stop) + 1]
    assert session.generate([3, 1, 4], 12, stop_tokens=[stop]).tolist() == whole
    prompt = next([token] for token in range(VOCABULARY) if STOP in greedy(CONSTANTS, [token], 12))
    assert session.generate(prompt, 12)[-1] == STOP


def test_tokens_come_one_by_one_and_generations_do_not_mix(session):
    one, other = session.stream([3, 1, 4], 8, stop_tokens=[]), session.stream([9], 8, stop_tokens=[])
    pairs = list(zip(one, other, strict=True))
    assert [token for token, _ in pairs] == greedy(CONSTANTS, [3, 1, 4], 8)
    assert [token for _, token in pairs] == greedy(CONSTANTS, [9], 8)


def test_threads_have_caches_of_their_own(session):
    prompts = [[token, token + 1] for token in range(8)]
    found = {}

    def generate(index):
        found[index] = [session.generate(prompts[index], 10, stop_tokens=[]).tolist() for _ in range(5)]

    threads = [threading.Thread(target=generate, args=(index,)) for index in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, prompt in enumerate(prompts):
        assert found[index] == [greedy(CONSTANTS, prompt, 10)] * 5


def test_a_second_caller_of_one_generation_is_refused(session):
    stream = session.stream([3], 8, stop_tokens=[])
    assert stream._stepping.acquire()
    with pytest.raises(RequestError, match="stepped by another caller"):
        next(stream)
    stream._stepping.release()
    assert len(list(stream)) == 8


def test_an_abandoned_generation_leaves_nothing_behind(session):
    stream = session.stream([3, 1, 4], 8, stop_tokens=[])
    next(stream)
    next(stream)
    stream.close()
    assert session.generate([9], 5, stop_tokens=[]).tolist() == greedy(CONSTANTS, [9], 5)


def test_drawn_tokens_follow_their_scores_and_the_seed(session):
    def first(seed, **options):
        return session.generate([3, 1], 1, seed=seed, stop_tokens=[], **options)[0]

    draws = [first(seed, temperature=0.7) for seed in range(400)]
    assert draws == [first(seed, temperature=0.7) for seed in range(400)]
    logits = scores(CONSTANTS, [3, 1])[-1] / 0.7
    likely = np.exp(logits - logits.max())
    likely /= likely.sum()
    shares = np.bincount(draws, minlength=VOCABULARY) / len(draws)
    # Three deviations of a share of 400 draws are 0.075 at most.
    assert np.abs(shares - likely).max() < 0.075
    best = set(np.argsort(logits)[-2:].tolist())
    assert {first(seed, temperature=3.0, top_k=2) for seed in range(60)} == best
    assert {first(seed, temperature=1e-6) for seed in range(5)} == {int(np.argmax(logits))}


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        (([], 1), {}, "no sequence of token numbers"),
        (([0.5], 1), {}, "no sequence of token numbers: float64"),
        (([[1], [2]], 1), {}, "2 prompts at once"),
        (([1, VOCABULARY], 1), {}, f"the prompt holds the token {VOCABULARY}"),
        (([-1], 1), {}, "the prompt holds the token -1"),
        (([1] * 25, 1), {}, "the prompt has 25 tokens, and the model has 24 positions"),
        (([1] * 20, 6), {}, "ask for max_new_tokens=5"),
        (([1], 0), {}, "max_new_tokens 0"),
        (([1], 1), {"stop_tokens": [VOCABULARY]}, f"there is no stop token {VOCABULARY}"),
        (([1], 1), {"stop_tokens": ["end"]}, "stop tokens are not whole numbers"),
        (([1], 1), {"temperature": -1.0}, "a temperature of -1.0"),
        (([1], 1), {"top_k": 41}, "top_k 41"),
        (([1], 1), {"seed": -1}, "seed -1"),
        (([1], 1), {"source": np.zeros((1, 3), np.int64)}, "has no encoder to read a source"),
    ],
)
def test_what_is_refused(session, arguments, options, said):
    with pytest.raises(RequestError) as caught:
        session.stream(*arguments, **options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_closed_session_generates_nothing(folder):
    decoder = decoder_graph(CONSTANTS).decoder
    bundle = SimpleNamespace(path=folder, io=InputsOutputs(decoder.inputs, decoder.outputs, {}, ()))
    session = Session(bundle, open_engine(folder))
    under_way = session.stream([3, 1, 4], 6, stop_tokens=[])
    first = next(under_way)
    session.close()
    assert [first, *under_way] == greedy(CONSTANTS, [3, 1, 4], 6)
    with pytest.raises(RequestError, match="closed"):
        session.generate([3], 1)


def test_another_network_generates_nothing(bundle):
    from edgec.runtime.session import load

    with load(bundle[0], check=False) as session, pytest.raises(RequestError, match="is no decoder"):
        session.generate([1], 1)


def test_a_description_that_says_nonsense_of_its_tokens(tmp_path):
    description = EngineDescription(
        "openvino", "model.xml", "fp32", 1, "stateful", {}, decoder={"vocabulary": 3}
    )
    description.write(tmp_path)
    with pytest.raises(IntegrityError, match="malformed"):
        open_engine(tmp_path)


def test_layers_are_timed_in_a_step(session):
    feeds = {IDS: np.array([[3, 1, 4]]), CONTINUATION: np.array([[1, 5, 9, 2]])}
    found = session.profile(feeds)
    assert any("ScaledDotProductAttention" in layer.op for layer in found)
    assert all(layer.microseconds >= 0 for layer in found)
