"""Files and folders that appear whole or not at all, whatever happens to the process that writes them.

A folder is written beside its place, in a scratch folder of a name that nobody has. It takes the place of the
one that was there in one step of the system (`renameat2` with RENAME_EXCHANGE on Linux, `renamex_np` with
RENAME_SWAP on macOS), so that no moment is without one. The process holds a lock on its scratch folder, which
the kernel releases however the process ends: what is not locked was left by one that was killed. Where the
file system knows no exchange, two renames do it; had the process been killed between them, whoever writes
there next gives back what was there.
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

_NEW = "new"
_OLD = "old"
_TARGET = "target"
_AT_FDCWD = -100
_SWAP = 2
"""RENAME_EXCHANGE of linux/fs.h, and RENAME_SWAP of macOS's sys/stdio.h."""

_MOST_LETTERS = 40
"""Of the target's name in a scratch folder's name; a name ends at 255 bytes."""


@contextlib.contextmanager
def folder(target: Path, *, replaced: Callable[[], None] | None = None) -> Iterator[Path]:
    """An empty folder that becomes `target` when the block ends without an error.

    A folder that was there before stays until the new one is whole, and is then removed.

    Args:
        target: its place.
        replaced: called where the folder at `target` is another than when the block began: someone else wrote
            it meanwhile, and it is replaced.
    """
    remove_abandoned(target)
    before = _identity(target)
    with _scratch(target) as scratch:
        new = scratch / _NEW
        new.mkdir()
        yield new
        meanwhile = _identity(target)
        _take_place(new, target, scratch)
        if replaced is not None and meanwhile is not None and meanwhile != before:
            replaced()


@contextlib.contextmanager
def file(target: Path) -> Iterator[Path]:
    """A path to write a file at, which becomes `target` when the block ends without an error."""
    remove_abandoned(target)
    handle, name = tempfile.mkstemp(prefix=_prefix(target), dir=target.parent)
    scratch = Path(name)
    try:
        _lock(handle)
        yield scratch
        # mkstemp's files are for their owner only; what is written should be like any other file.
        scratch.chmod(0o666 & ~_umask())
        scratch.replace(target)
    finally:
        os.close(handle)
        scratch.unlink(missing_ok=True)


def remove_abandoned(target: Path) -> None:
    """Remove what killed processes left of `target`, and put back what they had taken away."""
    for left in _abandoned(target.parent, _prefix(target)):
        if left.is_dir():
            _give_back(left)
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


@contextlib.contextmanager
def temporary_room(prefix: str) -> Iterator[Path]:
    """A folder that takes all temporary files of this process and its children, and goes with it.

    What processes of the same user that were killed left of theirs is removed at the start of the next.

    Args:
        prefix: what such folders' names begin with.
    """
    parent = Path(tempfile.gettempdir())
    for left in _abandoned(parent, prefix):
        shutil.rmtree(left, ignore_errors=True)
    before, variable = tempfile.tempdir, os.environ.get("TMPDIR")
    with _locked_folder(prefix, parent) as room:
        tempfile.tempdir = os.environ["TMPDIR"] = str(room)
        try:
            yield room
        finally:
            tempfile.tempdir = before
            if variable is None:
                del os.environ["TMPDIR"]
            else:
                os.environ["TMPDIR"] = variable


@contextlib.contextmanager
def _scratch(target: Path) -> Iterator[Path]:
    with _locked_folder(_prefix(target), target.parent) as scratch:
        # Whose it is, for whoever finds it abandoned.
        (scratch / _TARGET).write_bytes(os.fsencode(target.name))
        try:
            yield scratch
        finally:
            _give_back(scratch)


@contextlib.contextmanager
def _locked_folder(prefix: str, parent: Path) -> Iterator[Path]:
    """A new folder, locked while the block runs, and removed after it."""
    while True:
        made = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        try:
            handle = _open(made)
        except FileNotFoundError:  # someone who cleans up was quicker
            continue
        try:
            # Or is about to be.
            if _lock(handle) is not Lock.OTHERS and made.is_dir():
                yield made
                return
        finally:
            shutil.rmtree(made, ignore_errors=True)
            if handle is not None:
                os.close(handle)


def _take_place(new: Path, target: Path, scratch: Path) -> None:
    while True:
        try:
            new.rename(target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        else:
            return
        if _exchange(new, target):
            return
        shutil.rmtree(scratch / _OLD, ignore_errors=True)
        target.rename(scratch / _OLD)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two paths in one step; False where the system or the file system cannot."""
    library = ctypes.CDLL(None, use_errno=True)
    first, second = os.fsencode(one), os.fsencode(other)
    if hasattr(library, "renameat2"):
        return library.renameat2(_AT_FDCWD, first, _AT_FDCWD, second, _SWAP) == 0
    if hasattr(library, "renamex_np"):
        return library.renamex_np(first, second, _SWAP) == 0
    return False


def _give_back(scratch: Path) -> None:
    """Put back what was at the target, where nothing is there now."""
    old = scratch / _OLD
    if old.exists():
        target = scratch.parent / os.fsdecode((scratch / _TARGET).read_bytes())
        if not os.path.lexists(target):
            old.rename(target)


def _abandoned(parent: Path, prefix: str) -> Iterator[Path]:
    """What begins so and nobody holds the lock of, locked for as long as it is looked at."""
    for left in sorted(path for path in parent.iterdir() if path.name.startswith(prefix)):
        with contextlib.suppress(OSError):
            handle = _open(left)
            try:
                if _lock(handle) is Lock.HELD:
                    yield left
            finally:
                if handle is not None:
                    os.close(handle)


class Lock(enum.Enum):
    """What came of asking for a lock; a file system may know none."""

    HELD = enum.auto()
    OTHERS = enum.auto()
    UNKNOWN = enum.auto()


def _open(path: Path) -> int | None:
    """A descriptor to lock a file or folder by; None on Windows, which opens no folders."""
    if sys.platform == "win32":
        return None
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)


def _lock(handle: int | None) -> Lock:
    if sys.platform == "win32" or handle is None:
        return Lock.UNKNOWN
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return Lock.OTHERS
    except OSError:
        return Lock.UNKNOWN
    return Lock.HELD


def _prefix(target: Path) -> str:
    return f".{target.name[:_MOST_LETTERS]}.partial-"


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a folder from one that takes its place."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_ino, status.st_ctime_ns


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
