"""The files of a bundle: plain files in plain folders under plain names, and nothing else.

A link may lead out of the folder, and what it leads to would be read, shipped or run as if it were the
bundle's; a pipe or a device never ends.
"""

from __future__ import annotations

import hashlib
import os
import stat
import unicodedata
from collections.abc import Callable
from pathlib import Path

from edgec.core.errors import IntegrityError
from edgec.core.limits import limit, over

_CHUNK = 1 << 20


def plain_files(folder: Path) -> list[str]:
    """Names of all files below a folder, relative to it, with slashes, sorted.

    Raises:
        IntegrityError: something below it is neither a plain file nor a folder, or has a name that not every
            system and archive takes.
    """
    found: list[str] = []
    pending = [""]
    while pending:
        below = pending.pop()
        with os.scandir(folder / below) as entries:
            for entry in entries:
                name = f"{below}{entry.name}"
                if not _is_plain_name(entry.name):
                    raise _refused(folder, name, "has a name that not every system takes")
                if entry.is_dir(follow_symlinks=False):
                    pending.append(f"{name}/")
                elif entry.is_file(follow_symlinks=False):
                    found.append(name)
                else:
                    kind = "a link" if entry.is_symlink() else "no plain file"
                    raise _refused(folder, name, f"is {kind}, and a bundle has plain files and folders only")
        if len(found) + len(pending) > limit("bundle_files"):
            raise over(
                "bundle_files", f"it has at least {len(found) + len(pending)} files", where=str(folder)
            )
    return sorted(found)


def read_plain(source: Path, name: str, digest: str, write: Callable[[bytes], object]) -> None:
    """Read one of a bundle's files, as long as what is read is what was recorded.

    The bytes that are hashed are those that are passed on, from one descriptor.

    Args:
        source: the bundle's folder.
        name: the file's name in it.
        digest: its recorded sha256.
        write: given its bytes, piece by piece.

    Raises:
        IntegrityError: it is no plain file, or is not what was recorded.
    """
    # Not through a link, and not waiting for the other end of a pipe.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        handle = os.open(source / name, flags | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise _refused(source, name, f"cannot be read ({error.strerror})") from error
    seen = hashlib.sha256()
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise _refused(source, name, "is no plain file")
        while chunk := file.read(_CHUNK):
            seen.update(chunk)
            write(chunk)
    if seen.hexdigest() != digest:
        raise IntegrityError(
            "changed after it was written", where=str(source / name), fix="compile the model again"
        )


def is_inside(name: object) -> bool:
    """Whether a name from outside is a relative path, written with slashes, that leads down only."""
    if not isinstance(name, str) or not name:
        return False
    return all(part not in ("", ".", "..") and _is_plain_name(part) for part in name.split("/"))


def _is_plain_name(name: str) -> bool:
    return not any(letter in "\\:" or unicodedata.category(letter) in ("Cc", "Cs") for letter in name)


def _refused(folder: Path, name: str, what: str) -> IntegrityError:
    return IntegrityError(what, where=str(folder / name), fix="remove it, or compile the model again")
