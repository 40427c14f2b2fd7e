"""A bundle in a zip file: packed the same bytes for the same files, unpacked within bounds."""

from __future__ import annotations

import re
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path

from edgec.core import appearing
from edgec.core.errors import RequestError
from edgec.core.limits import limit, over
from edgec.core.plain_files import is_inside, read_plain

_ENCRYPTED = 1
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_FIX = "copy it again, whole, or pack the bundle again with --zip"


def pack(folder: Path, files: Mapping[str, str], target: Path) -> None:
    """Pack a folder's files, in order, under the folder's own name as far as every system takes it.

    Args:
        folder: the folder.
        files: names of its files, relative to it, with the sha256 that each must have.
        target: the zip file.

    Raises:
        IntegrityError: a file is not what was recorded.
    """
    top = re.sub(r"[^\w.+-]", "_", folder.name)
    with appearing.file(target) as scratch, zipfile.ZipFile(scratch, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, digest in files.items():
            entry = zipfile.ZipInfo(f"{top}/{name}")
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            with archive.open(entry, "w", force_zip64=True) as copy:
                read_plain(folder, name, digest, copy.write)


def unpack(path: Path, folder: Path) -> Path:
    """Unpack a packed bundle below an empty folder; returns the bundle's folder there.

    Raises:
        RequestError: it is no zip file, is damaged or encrypted, holds anything but one folder of plain
            files, or unpacks to more than is allowed or fits.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            top = _checked(entries, path, folder)
            for entry in entries:
                place = folder / entry.filename
                place.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(entry) as source, place.open("xb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
    except RequestError:
        raise
    except Exception as error:
        # A damaged zip file ends in any of a dozen classes of zipfile, zlib and the operating system.
        raise RequestError("the zip file is damaged", where=str(path), fix=_FIX) from error
    return folder / top


def _checked(entries: list[zipfile.ZipInfo], path: Path, folder: Path) -> str:
    """What the directory of the zip file says, held against the bounds; returns the one folder in it."""
    total = sum(entry.file_size for entry in entries)
    if len(entries) > limit("bundle_files"):
        raise over("bundle_files", f"the zip file has {len(entries)} files", where=str(path))
    if total > limit("bundle_bytes"):
        raise over("bundle_bytes", f"the zip file unpacks to {total} bytes", where=str(path))
    free = shutil.disk_usage(folder).free
    if total > free:
        raise RequestError(
            f"the zip file unpacks to {total / 1e6:.0f} MB, {free / 1e6:.0f} MB are free",
            where=str(folder),
            fix="free some space, or set TMPDIR to a folder that has some",
        )
    for entry in entries:
        if entry.flag_bits & _ENCRYPTED:
            raise RequestError("the zip file is encrypted", where=str(path), fix="unpack it first")
        if entry.compress_type not in _METHODS:
            raise RequestError(
                f"the zip file is compressed by the method {entry.compress_type}", where=str(path), fix=_FIX
            )
        if not is_inside(entry.filename):
            raise RequestError(
                f"the zip file has an entry {entry.filename!r}, which leads out of its folder",
                where=str(path),
                fix="do not trust it",
            )
    names = [entry.filename for entry in entries]
    tops = {name.partition("/")[0] for name in names if "/" in name}
    if len(tops) != 1 or len(set(names)) != len(names) or any("/" not in name for name in names):
        raise RequestError("this zip file is not a packed bundle", where=str(path), fix=_FIX)
    return tops.pop()
