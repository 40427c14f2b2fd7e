"""This machine as the device: the same steps, without a network."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

from edgec.core.errors import JobError
from edgec.devices.connections.base import Output


class LocalConnection:
    """Runs commands and copies files on this machine."""

    name = "this machine"

    def run(self, command: str, on_line: Callable[[str], None] | None = None) -> Output:
        """Run a shell command in the user's home."""
        lines: list[str] = []
        with subprocess.Popen(
            ["/bin/sh", "-c", command],
            cwd=Path.home(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        ) as process:
            assert process.stdout is not None

            def read_errors() -> None:
                assert process.stderr is not None
                for line in process.stderr:
                    lines.append(line)
                    if on_line is not None:
                        on_line(line.rstrip())

            # Both pipes are read at once: a full one would stop the command.
            reader = threading.Thread(target=read_errors, daemon=True)
            reader.start()
            stdout = process.stdout.read()
            reader.join()
        return Output(process.returncode, stdout, "".join(lines))

    def write(self, source: Path, target: str, on_bytes: Callable[[int], None]) -> None:
        """Copy a file, whole or not at all."""
        part = Path(f"{target}.part")
        try:
            shutil.copyfile(source, part)
            part.replace(target)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise JobError(
                f"cannot be written ({error.strerror})", where=target, fix="free some space there"
            ) from error
        on_bytes(source.stat().st_size)

    def __enter__(self) -> LocalConnection:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to close."""
