"""Running one cell: `edgec compile` in a process of its own, whose death is a result like any other."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path

from edgec.core import alone
from edgec.sweep import rows
from edgec.sweep.keys import key_of
from edgec.sweep.plan import Cell
from edgec.sweep.rows import Row

CELLS = "cells"
BUNDLE = "model.edgec"

_GRACE_SECONDS = 20.0
"""What a compile that is stopped has to unwind."""

_OWN_FAULT = "this is a bug of edgec"
"""How `edgec compile` begins what it did not foresee."""

_LETTERS = 2000
"""Of a process's last words, the most that are kept."""


@dataclasses.dataclass(frozen=True)
class Runner:
    """Runs cells and keeps what came of them in the sweep's folder.

    Attributes:
        folder: the sweep's folder.
        threads: threads that one compile may use; 0 for all.
        program: the words that `edgec` is called by; this Python's own where there are none.
    """

    folder: Path
    threads: int = 0
    program: tuple[str, ...] = ()

    def done(self, cell: Cell) -> Row | None:
        """The row of a cell that has run, of the same files and versions; None where it has to run."""
        row = rows.kept(self.folder / CELLS / cell.folder)
        return row if row is not None and row.key == key_of(cell) else None

    def run(self, cell: Cell, stop: threading.Event | None = None) -> Row | None:
        """Run a cell; None where it was stopped, and nothing is kept then."""
        folder = self.folder / CELLS / cell.folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        with alone.Held(lock_folder() / f"device-{cell.device}" if cell.device else None):
            row = self._compiled(cell, folder, stop or threading.Event())
        if row is not None:
            rows.keep(folder, row)
        return row

    def _compiled(self, cell: Cell, folder: Path, stop: threading.Event) -> Row | None:
        begun = time.monotonic()
        row = Row(*(cell.name, cell.target, cell.row), "failed", key=key_of(cell), machine=platform.node())
        # A compile that outlives a killed node does not write where the next one does.
        attempt = folder / uuid.uuid4().hex
        attempt.mkdir()
        program = self.program or (sys.executable, "-P", "-m", "edgec.cli.main")
        words = [*program, "compile", cell.model, "--target", cell.target, *cell.words]
        words += ["-o", str(attempt / BUNDLE), "--json"]
        with (folder / "log.txt").open("w+b") as log:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._environment(),
                # Ctrl-C reaches the sweep alone, which stops its compiles in order.
                start_new_session=True,
            )
            answer = _answer(process, stop)
            log.seek(0)
            said = log.read().decode("utf-8", "replace")
        if answer is None:
            return None
        row = dataclasses.replace(row, seconds=time.monotonic() - begun)
        try:
            fields = json.loads(answer)
        except ValueError:
            return dataclasses.replace(row, reason=_last_words(process.returncode, said))
        if process.returncode == 0:
            bundle = (attempt / BUNDLE).rename(folder / BUNDLE).relative_to(self.folder)
            attempt.rmdir()
            return dataclasses.replace(row.with_answer(fields), bundle=bundle.as_posix())
        error = fields["error"]
        told = [part for part in (error["where"], error["what"]) if part]
        reason = ": ".join(told) + (f"; {error['fix']}" if error["fix"] else "")
        unforeseen = error["what"].startswith(_OWN_FAULT)
        return dataclasses.replace(row, verdict="failed" if unforeseen else "refused", reason=reason)

    def _environment(self) -> dict[str, str]:
        environment = {**os.environ, alone.FOLDER: str(lock_folder())}
        if self.threads:
            environment["OMP_NUM_THREADS"] = str(self.threads)
        return environment


def lock_folder() -> Path:
    """The folder of this machine's locks, one a user."""
    folder = Path(tempfile.gettempdir()) / f"edgec-locks-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _answer(process: subprocess.Popen[bytes], stop: threading.Event) -> bytes | None:
    """What a process wrote; None where it was stopped."""
    while True:
        try:
            return process.communicate(timeout=0.2)[0]
        except subprocess.TimeoutExpired:
            if stop.is_set():
                break
        except BaseException:
            _end(process)
            raise
    _end(process)
    return None


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let a compile unwind; whatever it began as well is ended with it."""
    process.terminate()
    try:
        process.communicate(timeout=_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _last_words(status: int, said: str) -> str:
    how = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
    return f"the process ended {how}; {said.strip()[-_LETTERS:] or 'it said nothing'}"
