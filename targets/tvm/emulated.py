"""A library for ARM run on another machine, under QEMU's emulation of the processor: numerics, no times."""

from __future__ import annotations

import shutil
import struct
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np

from edgec.core.errors import IntegrityError, JobError
from edgec.core.graph import Arrays
from edgec.runtime.engine import EngineDescription, LayerTime, closed
from edgec.targets.tvm.build import compile_pipe
from edgec.targets.tvm.machines import core_for

EMULATOR = "qemu-aarch64"

_ROOT = Path("/usr/aarch64-linux-gnu")
"""Where Debian's cross compiler keeps the C and C++ libraries of ARM."""

_CODES = {"i": 0, "u": 1, "f": 2, "b": 6}
_KINDS = {code: kind for kind, code in _CODES.items()}


class EmulatedLibrary:
    """Runs the bundle's own library in a process of its own, under QEMU.

    The processor that QEMU emulates is the one that the library is for: an instruction that it has not ends
    the process. Threads run one after another.

    Attributes:
        description: the folder's `engine.json`.

    Raises:
        JobError: there is no emulator, or the library does not run under it.
        IntegrityError: the description cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.description = EngineDescription.read(folder)
        self._lock = threading.Lock()
        emulator = emulator_path()
        core = core_for(self.description.settings.get("core", ""))
        self._work = tempfile.TemporaryDirectory(prefix="edgec-emulated-")
        program = compile_pipe(core, folder, Path(self._work.name))
        command = [
            emulator,
            "-cpu",
            core.emulated,
            "-L",
            str(_ROOT),
            "-E",
            f"LD_LIBRARY_PATH={folder.resolve()}",
        ]
        self._process: subprocess.Popen[bytes] | None = subprocess.Popen(
            [*command, str(program), str((folder / self.description.model).resolve()), "1"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        """Run once, under the emulator.

        Raises:
            RequestError: it is closed.
            JobError: the library does not run.
        """
        with self._lock:
            if self._process is None:
                raise closed()
            to, back = self._process.stdin, self._process.stdout
            assert to is not None
            assert back is not None
            try:
                to.write(struct.pack("<q", len(self.description.inputs)))
                for name in self.description.inputs:
                    _write(to, np.ascontiguousarray(feeds[name]))
                to.flush()
                (count,) = _numbers(back, 1)
                if count < 0:
                    why = back.read(*_numbers(back, 1)).decode(errors="replace")
                    raise JobError(f"the library does not run under {EMULATOR} ({why})")
                return dict(zip(self.description.outputs, [_read(back) for _ in range(count)], strict=True))
            except (OSError, EOFError) as error:
                raise JobError(f"the library ends under {EMULATOR} ({self._last_words()})") from error

    def _last_words(self) -> str:
        assert self._process is not None
        assert self._process.stderr is not None
        said = self._process.stderr.read().decode(errors="replace").strip().splitlines()
        return said[-1][:300] if said else f"status {self._process.wait()}"

    def profile(self, feeds: Mapping[str, np.ndarray], runs: int = 20) -> list[LayerTime]:  # noqa: ARG002
        """No times: an emulator has its own."""
        return []

    def close(self) -> None:
        """End the process."""
        with self._lock:
            if self._process is not None:
                for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
                    if pipe is not None:
                        pipe.close()
                self._process.kill()
                self._process.wait()
                self._work.cleanup()
            self._process = None


def emulator_path() -> str:
    """The emulator of ARM processors.

    Raises:
        JobError: it is not installed, or the libraries that programs for ARM need are not.
    """
    found = shutil.which(EMULATOR)
    if found is None:
        raise JobError(
            f"this machine has no ARM processor, and {EMULATOR}, which emulates one, is not installed: "
            "the library could not be verified",
            fix="install Debian's qemu-user and g++-aarch64-linux-gnu, or compile on the board",
        )
    if not _ROOT.is_dir():
        raise JobError(
            "the C++ libraries for ARM are not installed",
            where=str(_ROOT),
            fix="install g++-aarch64-linux-gnu",
        )
    return found


def _write(to: IO[bytes], array: np.ndarray) -> None:
    code = _CODES[array.dtype.kind]
    to.write(struct.pack(f"<{3 + array.ndim}q", code, 8 * array.dtype.itemsize, array.ndim, *array.shape))
    to.write(array.tobytes())


def _numbers(back: IO[bytes], count: int) -> tuple[int, ...]:
    return struct.unpack(f"<{count}q", _bytes(back, 8 * count))


def _bytes(back: IO[bytes], count: int) -> bytes:
    found = back.read(count)
    if len(found) != count:
        raise EOFError
    return found


def _read(back: IO[bytes]) -> np.ndarray:
    code, bits, rank = _numbers(back, 3)
    shape = _numbers(back, rank)
    if code not in _KINDS:
        raise IntegrityError("the library gives an output of an unknown type")
    dtype = np.dtype(f"{_KINDS[code]}{max(1, bits // 8)}")
    return np.frombuffer(_bytes(back, int(np.prod(shape)) * dtype.itemsize), dtype).reshape(shape).copy()
