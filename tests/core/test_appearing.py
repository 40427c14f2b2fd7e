"""What is written appears whole or not at all, and nothing is lost whenever the process is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from edgec.core import appearing

KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from edgec.core import appearing

def killed(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

step, exchanges = sys.argv[1], sys.argv[2] == "exchanges"
if not exchanges:
    appearing._exchange = lambda one, other: False
if step == "second rename":
    first, done = Path.rename, []
    def rename(self, target):
        if self.name == "new" and done:
            killed()
        done.append(self)
        return first(self, target)
    Path.rename = rename
elif step == "writing":
    pass
elif step == "rmtree":
    shutil.rmtree = killed
elif step == "exchange":
    appearing._exchange = killed
with appearing.folder(Path("made")) as scratch:
    (scratch / "half").write_text("new")
    if step == "writing":
        killed()
    (scratch / "whole").write_text("new")
"""


def write(target: Path, text: str) -> None:
    with appearing.folder(target) as scratch:
        (scratch / "half").write_text(text)
        (scratch / "whole").write_text(text)


def content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.mark.parametrize("exchanges", ["exchanges", "renames"])
@pytest.mark.parametrize("step", ["writing", "exchange", "second rename", "rmtree"])
def test_a_kill_at_any_step_leaves_a_whole_one(tmp_path: Path, step: str, exchanges: str) -> None:
    write(tmp_path / "made", "old")
    subprocess.run([sys.executable, "-c", KILLED, step, exchanges], cwd=tmp_path, timeout=60)
    # The next one begins by giving back what was taken away, even where it writes nothing itself.
    with pytest.raises(ZeroDivisionError), appearing.folder(tmp_path / "made"):
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    kept = content(tmp_path / "made")
    assert kept in ({"half": "old", "whole": "old"}, {"half": "new", "whole": "new"})


def test_no_moment_is_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "made"
    write(target, "old")
    seen = []
    for name in ("rename", "rmdir", "unlink"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *a, real=real, **k: (seen.append(target.exists()), real(*a, **k))[1]
        )
    write(target, "new")
    assert seen
    assert all(seen)
    assert content(target) == {"half": "new", "whole": "new"}


def test_a_name_as_long_as_a_system_takes(tmp_path: Path) -> None:
    write(tmp_path / ("n" * 255), "new")
    write(tmp_path / ("ü" * 127), "new")
    assert len(list(tmp_path.iterdir())) == 2


def test_two_at_once_both_end_and_the_later_says_so(tmp_path: Path) -> None:
    target, said = tmp_path / "made", []
    with appearing.folder(target, replaced=lambda: said.append("first")) as first:
        (first / "of").write_text("first")
        with appearing.folder(target, replaced=lambda: said.append("second")) as second:
            (second / "of").write_text("second")
        assert content(target) == {"of": "second"}
    assert content(target) == {"of": "first"}
    assert said == ["first"]
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_what_is_being_written_is_not_cleaned_away(tmp_path: Path) -> None:
    with appearing.folder(tmp_path / "made") as scratch:
        appearing.remove_abandoned(tmp_path / "made")
        assert scratch.is_dir()


def test_the_number_of_the_process_means_nothing(tmp_path: Path) -> None:
    other = tmp_path / f".made.partial-{os.getpid()}"
    other.mkdir()
    (other / "old").mkdir()
    (other / "old" / "precious").write_text("x")
    (other / "target").write_text("made")
    with pytest.raises(ZeroDivisionError), appearing.folder(tmp_path / "made"):
        raise ZeroDivisionError
    assert content(tmp_path / "made") == {"precious": "x"}


def test_a_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "f"

    def fill_the_disk() -> None:
        with appearing.file(target) as scratch:
            scratch.write_text("half")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fill_the_disk()
    assert not list(tmp_path.iterdir())
    target.write_text("old")
    with appearing.file(target) as scratch:
        scratch.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert target.stat().st_mode & 0o777 == 0o666 & ~appearing._umask()


ROOM = """
import os, signal, sys, tempfile
from edgec.core import appearing
with appearing.temporary_room("room-"):
    open(os.path.join(tempfile.mkdtemp(), "f"), "w").close()
    os.kill(os.getpid(), int(sys.argv[1]))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_temporary_files_go_with_their_process_or_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    subprocess.run(
        [
            sys.executable,
            "-c",
            "import signal; signal.signal(2, signal.default_int_handler)\n" + ROOM,
            str(int(number)),
        ],
        env=environment,
        stderr=subprocess.DEVNULL,
        timeout=60,
    )
    assert len(list(tmp_path.iterdir())) == (1 if number == signal.SIGKILL else 0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with appearing.temporary_room("room-") as room:
        assert list(tmp_path.iterdir()) == [room]
        assert Path(tempfile.mkdtemp()).parent == room
    assert not list(tmp_path.iterdir())
    assert tempfile.gettempdir() == str(tmp_path)
