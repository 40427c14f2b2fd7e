"""What `children.py` promises, tried by tests of its own in a run of pytest beside this one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

CONFTEST = """
import sys
sys.path.insert(0, {here!r})
import children
from children import pytest_runtest_call, pytest_sessionfinish
children.DEADLINE_SECONDS = 0.5
children.watch()
"""

TESTS = """
import subprocess, sys
from pathlib import Path
import pytest

LONG = [sys.executable, "-c", "import time; time.sleep(600)"]

def start(name):
    child = subprocess.Popen(LONG)
    Path(name).write_text(str(child.pid))
    return child

@pytest.fixture(scope="module")
def server():
    return start("of a fixture")

def test_left_behind(server):
    start("of a test")
    assert False

def test_served(server):
    assert server.poll() is None

def test_waited_for():
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(LONG)
    child = start("waited for")
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait()

def test_named_time():
    child = start("named")
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.01)
    assert child.poll() is None
"""


def runs(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{number}/stat")
    return not state.exists() or state.read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] != "Z"


def test_no_child_is_left_and_none_is_waited_for_for_ever(tmp_path: Path) -> None:
    here = str(Path(__file__).parent)
    (tmp_path / "conftest.py").write_text(CONFTEST.format(here=here), encoding="utf-8")
    (tmp_path / "test_some.py").write_text(TESTS, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        ".",
        "test_some.py",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert "1 failed, 3 passed" in done.stdout, done.stdout + done.stderr
    left = {}
    for name in ("of a fixture", "of a test", "waited for", "named"):
        left[name] = int((tmp_path / name).read_text(encoding="utf-8"))
    deadline = time.monotonic() + 30
    while any(map(runs, left.values())) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [name for name, number in left.items() if runs(number)]
