"""Sessions in several threads, closed while they run, and after a fork."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest

from edgec.core.errors import RequestError
from edgec.runtime.engines import open_engine
from edgec.runtime.session import load

THREADS = 8
RUNS = [60, pytest.param(5_000, marks=pytest.mark.full)]


def drawn(batch, seed):
    rng = np.random.default_rng(seed)
    return {"x": rng.standard_normal((batch, 4)).astype(np.float32), "ids": rng.integers(0, 99, batch)}


def wanted(constants, feeds):
    return {"y": np.maximum(feeds["x"] @ constants["w"] + constants["b"], 0), "n": feeds["ids"] + 1}


def in_threads(work):
    """What every thread found wrong; each is given its number."""
    found = [[] for _ in range(THREADS)]
    barrier = threading.Barrier(THREADS)

    def run(index):
        barrier.wait()
        try:
            work(index, found[index])
        except Exception as error:
            found[index].append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [wrong for each in found for wrong in each]


def run_many(sessions, constants, runs, batches):
    """Every thread has inputs of its own, of every batch in turn; wrong answers and errors."""

    def work(index, wrong):
        session = sessions[index % len(sessions)]
        fed = [drawn(batch, 100 * index + batch) for batch in batches]
        right = [wanted(constants, feeds) for feeds in fed]
        for run in range(runs):
            which = (run + index) % len(fed)
            found = session.run(fed[which])
            if not all(np.allclose(found[name], right[which][name], atol=1e-5) for name in ("y", "n")):
                wrong.append((index, run))

    return in_threads(work)


@pytest.mark.parametrize("runs", RUNS)
def test_every_thread_gets_its_own_answer(bundle, runs):
    path, constants = bundle
    with load(path) as session:
        assert run_many([session], constants, runs, [2]) == []


@pytest.mark.parametrize("runs", RUNS)
def test_every_thread_gets_its_own_answer_at_its_own_size(open_bundle, runs):
    path, constants = open_bundle
    with load(path) as session:
        assert run_many([session], constants, runs, [1, 700, 3, 90]) == []


def test_two_sessions_of_one_bundle_run_side_by_side(bundle):
    path, constants = bundle
    with load(path) as one, load(path) as other:
        assert run_many([one, other], constants, 40, [2]) == []


def test_threads_that_run_while_it_is_closed_are_refused_and_end(open_bundle):
    path, constants = open_bundle
    session = load(path)
    running = threading.Barrier(THREADS + 1)

    def close():
        running.wait()
        session.close()

    def work(index, wrong):
        feeds = drawn(300, index)
        right = wanted(constants, feeds)["y"]
        running.wait()
        for _ in range(100_000):
            try:
                found = session.run(feeds)
            except RequestError as error:
                if "closed" not in str(error):
                    wrong.append(error)
                return
            if not np.allclose(found["y"], right, atol=1e-5):
                wrong.append(index)
        wrong.append(f"thread {index} was never refused")

    closer = threading.Thread(target=close)
    closer.start()
    assert in_threads(work) == []
    closer.join()


def test_a_run_that_fails_leaves_nothing_for_the_next(open_bundle):
    path, constants = open_bundle
    engine = open_engine(path / "engine")
    feeds = drawn(3, 0)
    try:
        for _ in range(3):
            found = engine.run(feeds)
            np.testing.assert_allclose(found["y"], wanted(constants, feeds)["y"], atol=1e-5)
            np.testing.assert_array_equal(found["n"], feeds["ids"] + 1)
            # The first input is taken before the second is refused.
            with pytest.raises(Exception, match=r"(?i)shape|dimension|rank"):
                engine.run({"x": np.ones((5, 4), np.float32), "ids": np.ones((5, 1), np.int64)})
    finally:
        engine.close()


FORKED = """
import os, signal, sys
import numpy as np
from edgec.core.errors import RequestError
from edgec.runtime.session import load

feeds = {"x": np.ones((2, 4), np.float32), "ids": np.arange(2)}
with load(sys.argv[1]) as session:
    session.run(feeds)
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        try:
            session.run(feeds)
        except RequestError as error:
            print(error, flush=True)
        session.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, "the child hung or crashed"
    session.run(feeds)
"""


def test_a_forked_child_is_refused_and_the_parent_goes_on(bundle):
    command = [sys.executable, "-c", FORKED, str(bundle[0])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "forked" in done.stdout
    assert "load the bundle in the process that runs it" in done.stdout
