from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import edgec

PREAMBLE = """
import faulthandler, signal, sys, threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from edgec.runtime.engines import open_engine

signal.signal(signal.SIGTERM, lambda *_: print("handled"))
open_one = lambda: open_engine(Path(sys.argv[1]))
"""


def handled_signals(code, folder):
    """How many signals the code survived."""
    command = [sys.executable, "-c", PREAMBLE + code, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.count("handled")


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
@pytest.mark.parametrize("faulthandler", [False, True])
def test_a_signal_is_survived_after_engines_close_in_any_order(openvino_engine, order, faulthandler):
    code = f"""
if {faulthandler}:
    faulthandler.enable()
engines = [open_one() for _ in range(3)]
for index in {order}:
    engines[index].close()
    signal.raise_signal(signal.SIGTERM)
"""
    assert handled_signals(code, openvino_engine) == 3


def test_a_signal_is_survived_where_another_thread_closes(openvino_engine):
    code = """
engine = open_one()
with ThreadPoolExecutor(1) as pool:
    pool.submit(engine.close).result()
signal.raise_signal(signal.SIGTERM)
"""
    assert handled_signals(code, openvino_engine) == 1


def test_a_thread_that_opened_survives_a_signal_of_its_own(openvino_engine):
    code = """
with ThreadPoolExecutor(1) as pool:
    thread = pool.submit(threading.get_ident).result()
    pool.submit(open_one).result().close()
    signal.pthread_kill(thread, signal.SIGTERM)
    pool.submit(int).result()
"""
    assert handled_signals(code, openvino_engine) == 1


def test_every_core_is_made_in_one_place():
    root = Path(edgec.__file__).parent.parent
    made = re.compile(r"\bCore\(\)|openvino\.compile_model\(")
    rooms = ("edgec", "devices", "frontends", "passes", "plugins", "targets", "zoo", "benchmarks")
    files = [path for room in rooms for path in (root / room).rglob("*.py")]
    assert [path.name for path in files if made.search(path.read_text())] == ["openvino_core.py"]
