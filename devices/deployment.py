"""Taking a Jetson bundle to its device: copy, check, build, verify, measure.

On the device everything lies under `~/.edgec/NAME/`: `bundle/` as it left here, `bundle.device/` with what
is made of it there. A deployment works in `~/.edgec/NAME.staging/` and takes the old one's place when the
engine is verified; whatever fails before leaves the old one as it was. A staging folder stays only where
the copy was cut, and the next deployment goes on from it.

The one before stays as `~/.edgec/NAME.previous/`, with its engine. The new one is verified once more where it
now lies; should that fail, the one before comes back. `roll_back` changes the two by hand.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import posixpath
import shlex
from collections.abc import Iterable, Iterator
from typing import Any

from edgec.core.bundle import MANIFEST, Bundle, file_sha256
from edgec.core.errors import JobError, RequestError, Terminated
from edgec.core.progress import Progress
from edgec.devices.connections.base import Connection, ConnectionCutError

BUILD_TIME = 600.0
"""Seconds for variants where nothing is said."""

_PLAN = "engine/plan.json"
_BUILDER = "device/"
_BENCH = "bench"


@dataclasses.dataclass(frozen=True)
class Deployment:
    """A bundle that runs on its device.

    Attributes:
        device: the connection's name.
        folder: the bundle's folder there.
        checks: what was checked before the build; `name`, `status`, `what`, `fix`.
        engine: the engine's sidecar.
        measured: the device's own report.
    """

    device: str
    folder: str
    checks: list[dict[str, str]]
    engine: dict[str, Any]
    measured: dict[str, Any]


def deploy(
    bundle: Bundle, connection: Connection, progress: Progress, build_time: float = BUILD_TIME
) -> Deployment:
    """Deploy a bundle.

    Args:
        bundle: a bundle that is built on its device.
        connection: the device.
        progress: told each step, and what the device says while it builds.
        build_time: seconds that the device may take for trying variants of the engine; with 0 it builds the
            plan's own alone.

    Raises:
        RequestError: the bundle's engine is not built on a device.
        ConnectionCutError: the connection broke; the device keeps what was copied and built.
        JobError: the device does not fit the bundle, or cannot build, verify or measure it.
    """
    if not (bundle.path / _PLAN).is_file():
        raise RequestError(
            "its engine is not built on a device, so there is nothing to deploy",
            where=str(bundle.path),
            fix="copy the bundle and run it, or pack it with edgec package",
        )
    final = _final(bundle, connection)
    device = _Device(connection, progress, f"{final}.staging")
    with device.kept_only_if_cut():
        device.start_from(final)
        device.copy(bundle, [name for name in _files(bundle) if name.startswith(_BUILDER) or name == _PLAN])
        progress.step(f"checking {connection.name}")
        device.engine("check --plan-only")
        device.copy(bundle, _files(bundle))
        # A kept timing cache makes the next build of a like model much shorter; one that is there is newer.
        state, cache = _quoted(device.state), _quoted(f"{final}/bundle.device/timing.cache")
        _said(connection, f"mkdir -p {state} && if [ -f {cache} ]; then cp -n {cache} {state}; fi")
        report = device.engine("check")
        engine = device.engine(f"build --build-time {build_time:g}")
    with device.removed_on_failure():
        measured = device.engine(_BENCH)
        progress.step("putting it in its place")
        new, now, before = (_quoted(path) for path in (device.root, final, f"{final}.previous"))
        _said(connection, f"rm -rf {before} && if [ -e {now} ]; then mv {now} {before}; fi && mv {new} {now}")
    placed = _Device(connection, progress, final)
    try:
        placed.engine("verify")
    except JobError as error:
        placed.remove()
        there = _said(connection, f"if [ -e {before} ]; then mv {before} {now} && echo back; fi")
        what = "the engine before it is back" if there.strip() else "there was none before it"
        raise JobError(f"{error.what}; {what}", where=connection.name, fix=error.fix) from error
    return Deployment(connection.name, f"{final}/bundle", report["checks"], engine, measured)


def roll_back(bundle: Bundle, connection: Connection, progress: Progress) -> str:
    """Let the last deployment and the one before it change places; returns the folder.

    The one before is verified first.

    Args:
        bundle: the bundle, for its name.
        connection: the device.
        progress: told each step.

    Raises:
        JobError: there is none before, or it does not verify any more; nothing has changed then.
    """
    final = _final(bundle, connection)
    device = _Device(connection, progress, f"{final}.previous")
    if not _said(connection, f"if [ -d {_quoted(device.bundle)} ]; then echo there; fi").strip():
        raise JobError(
            "the device keeps no deployment before the last one", where=connection.name, fix="deploy again"
        )
    device.engine("verify")
    now, before, aside = (_quoted(path) for path in (final, device.root, f"{final}.aside"))
    _said(
        connection,
        f"rm -rf {aside} && if [ -e {now} ]; then mv {now} {aside}; fi && mv {before} {now} && "
        f"if [ -e {aside} ]; then mv {aside} {before}; fi",
    )
    return f"{final}/bundle"


def _final(bundle: Bundle, connection: Connection) -> str:
    home = _said(connection, 'printf %s "$HOME"')
    return posixpath.join(home, ".edgec", bundle.path.name.removesuffix(".edgec"))


class _Device:
    """The staging folder on a device, and edgec_engine in it."""

    def __init__(self, connection: Connection, progress: Progress, root: str) -> None:
        self._connection = connection
        self._progress = progress
        self.root = root
        self.bundle = f"{root}/bundle"
        self.state = f"{root}/bundle.device"

    def start_from(self, final: str) -> None:
        """Begin with the files of an earlier deployment, as links, unless a partial copy is there."""
        root, now = _quoted(self.root), _quoted(f"{final}/bundle")
        _said(
            self._connection,
            f"[ -e {root} ] || {{ mkdir -p {root} && if [ -d {now} ]; then cp -al {now} {root}/; fi; }}",
        )

    def copy(self, bundle: Bundle, names: list[str]) -> None:
        """Copy files of the bundle that are not there yet, and see that all came over as they are."""
        folders = sorted({posixpath.dirname(f"{self.bundle}/{name}") for name in names})
        _said(self._connection, "mkdir -p " + " ".join(map(_quoted, folders)))
        recorded = {**bundle.manifest["files"], MANIFEST: file_sha256(bundle.path / MANIFEST)}
        there = self._hashes()
        # Of an earlier bundle; what is partial may be one of this one's files.
        self._remove(name for name in there if name.removesuffix(".part") not in recorded)
        missing = [name for name in names if there.get(name) != recorded[name]]
        sizes = {name: (bundle.path / name).stat().st_size for name in missing}
        self._check_room(sum(sizes.values()))
        total, done = sum(sizes.values()), 0

        def more(count: int) -> None:
            nonlocal done
            done += count
            self._progress.step(
                f"copying to {self._connection.name}: {done / 1e6:.1f} of {total / 1e6:.1f} MB"
            )

        for name in missing:
            try:
                self._connection.write(bundle.path / name, f"{self.bundle}/{name}", more)
            except ConnectionCutError:
                raise
            except JobError:
                self._check_room(sizes[name])  # a full disk is no error of its own in SFTP's common version
                raise
        if not missing:
            return
        there = self._hashes()
        # What is partial of a file that is whole now; others may still be gone on with.
        self._remove(name for name in there if name.endswith(".part") and name[: -len(".part")] in names)
        wrong = [name for name in missing if there.get(name) != recorded[name]]
        if wrong:
            raise JobError(
                f"{', '.join(wrong)} did not arrive as sent",
                where=self._connection.name,
                fix="deploy again; if it repeats, see the device's storage",
            )

    def engine(self, command: str) -> dict[str, Any]:
        """Run a subcommand of edgec_engine there; what it says on the way is progress.

        Raises:
            JobError: in the device's own words.
        """
        name, _, options = command.partition(" ")
        line = (
            f"PYTHONPATH={_quoted(self.bundle + '/device')}${{PYTHONPATH:+:$PYTHONPATH}} "
            f"python3 -B -m edgec_engine {name} {_quoted(self.bundle)} --state {_quoted(self.state)} "
            f"--json {options}"
        )
        self._progress.step(f"{self._connection.name}: {name}")
        output = self._connection.run(
            line, lambda said: self._progress.step(f"{self._connection.name}: {said}")
        )
        try:
            fields = json.loads(output.stdout)
        except ValueError as error:
            last = [text for text in output.stderr.splitlines() if text.strip()][-1:] or ["it said nothing"]
            raise JobError(
                f"edgec_engine {name} does not run there: {last[0].strip()}",
                where=self._connection.name,
                fix="see that python3 and numpy are installed: sudo apt install python3-numpy",
            ) from error
        if "error" in fields:
            raise JobError(fields["error"]["what"], where=self._connection.name, fix=fields["error"]["fix"])
        errors = [check for check in fields.get("checks", []) if check["status"] == "error"]
        if errors:
            raise JobError(
                "; ".join(check["what"] for check in errors),
                where=self._connection.name,
                fix=errors[0]["fix"],
            )
        for check in fields.get("checks", []):
            if check["status"] == "warning" and not options:
                self._progress.note(f"{check['what']}{'; ' + check['fix'] if check['fix'] else ''}")
        return fields

    @contextlib.contextmanager
    def kept_only_if_cut(self) -> Iterator[None]:
        """Remove the staging folder where the block fails, unless a partial copy is worth going on with."""
        try:
            yield
        except (ConnectionCutError, KeyboardInterrupt, Terminated):
            raise
        except BaseException:
            self.remove()
            raise

    @contextlib.contextmanager
    def removed_on_failure(self) -> Iterator[None]:
        """Remove the staging folder where the block fails."""
        try:
            yield
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Remove the staging folder, if the device still answers."""
        with contextlib.suppress(JobError):
            self._connection.run(f"rm -rf {_quoted(self.root)}")

    def _remove(self, names: Iterable[str]) -> None:
        paths = " ".join(_quoted(f"{self.bundle}/{name}") for name in names)
        if paths:
            _said(self._connection, f"rm -f {paths}")

    def _hashes(self) -> dict[str, str]:
        text = _said(self._connection, f"cd {_quoted(self.bundle)} && find . -type f -exec sha256sum {{}} +")
        pairs = (line.split(maxsplit=1) for line in text.splitlines() if line.strip())
        return {name.lstrip("*").removeprefix("./"): digest for digest, name in pairs}

    def _check_room(self, needed: int) -> None:
        text = _said(self._connection, f"df -Pk {_quoted(self.bundle)} | tail -n 1")
        free = int(text.split()[3]) * 1024
        if free < needed:
            raise JobError(
                f"only {free / 1e6:.0f} MB of its disk are free, the bundle needs {needed / 1e6:.0f} MB",
                where=self._connection.name,
                fix="free some space there",
            )


def _files(bundle: Bundle) -> list[str]:
    return [*sorted(bundle.manifest["files"]), MANIFEST]


def _quoted(text: str) -> str:
    return shlex.quote(text)


def _said(connection: Connection, command: str) -> str:
    output = connection.run(command)
    if output.status != 0:
        reason = output.stderr.strip().splitlines()[-1:] or [f"exit status {output.status}"]
        raise JobError(f"{reason[0]}", where=connection.name, fix="see its disk and permissions")
    return output.stdout
