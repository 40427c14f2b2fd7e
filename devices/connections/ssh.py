"""A device over SSH, by asyncssh: keys and settings are those of the user's own ssh.

The host key must be in `~/.ssh/known_hosts`. Nothing is asked on the way: a device is entered with a key.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import shlex
import socket
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.core.errors import JobError, MissingExtraError, RequestError
from edgec.devices.connections.base import ConnectionCutError, Output

if TYPE_CHECKING:
    import asyncssh

PIECE = 1 << 20
"""Bytes written before the next ones are sent; an interrupted copy goes on at a multiple of it."""

CONNECT_SECONDS = 15
KEEPALIVE_SECONDS = 15


class SshConnection:
    """An open SSH connection.

    Attributes:
        name: `USER@HOST[:PORT]`.
    """

    def __init__(self, name: str, runner: asyncio.Runner, connection: asyncssh.SSHClientConnection) -> None:
        self.name = name
        self._runner = runner
        self._connection = connection
        self._sftp: asyncssh.SFTPClient | None = None

    @classmethod
    def open(cls, spec: str) -> SshConnection:
        """Connect to `ssh://USER@HOST[:PORT]`.

        Raises:
            RequestError: the address is malformed, the host key is unknown or wrong, or no key lets us in.
            JobError: nobody answers there.
            MissingExtraError: asyncssh is not installed.
        """
        try:
            import asyncssh  # noqa: F401
        except ImportError as error:
            raise MissingExtraError("asyncssh", "deploy") from error
        user, host, port = _address(spec)
        name = f"{user}@{host}" if port == 22 else f"{user}@{host}:{port}"
        runner = asyncio.Runner()
        try:
            connection = runner.run(_open(user, host, port, name))
        except BaseException:
            runner.close()
            raise
        return cls(name, runner, connection)

    def run(self, command: str, on_line: Callable[[str], None] | None = None) -> Output:
        """Run a command of the POSIX shell in the user's home; see `Connection.run`."""
        with self._told():
            return self._runner.run(self._command(command, on_line))

    def write(self, source: Path, target: str, on_bytes: Callable[[int], None]) -> None:
        """Copy a file over SFTP, going on with `TARGET.part` where it begins as the file does."""
        with self._told(target):
            self._runner.run(self._copy(source, target, on_bytes))

    def __enter__(self) -> SshConnection:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.abort()
        with contextlib.suppress(Exception):
            self._runner.run(self._connection.wait_closed())
        self._runner.close()

    async def _command(self, command: str, on_line: Callable[[str], None] | None) -> Output:
        # A login shell of another kind may not be a POSIX one.
        process = await self._connection.create_process(
            f"/bin/sh -c {shlex.quote(command)}", stdin=_nothing(), encoding="utf-8", errors="replace"
        )
        lines: list[str] = []

        async def read_errors() -> None:
            async for line in process.stderr:
                lines.append(line)
                if on_line is not None:
                    on_line(line.rstrip())

        stdout, _ = await asyncio.gather(process.stdout.read(), read_errors())
        await process.wait_closed()
        if process.returncode is None:
            raise self._cut("no exit status came")
        return Output(process.returncode, stdout, "".join(lines))

    async def _copy(self, source: Path, target: str, on_bytes: Callable[[int], None]) -> None:
        if self._sftp is None:
            self._sftp = await self._connection.start_sftp_client()
        part = f"{target}.part"
        start = await self._resumable(source, part)
        on_bytes(start)
        async with self._sftp.open(part, "r+b" if start else "wb") as remote:
            with source.open("rb") as local:
                local.seek(start)
                while piece := local.read(PIECE):
                    await remote.write(piece, local.tell() - len(piece))
                    on_bytes(len(piece))
        await self._sftp.posix_rename(part, target)

    async def _resumable(self, source: Path, part: str) -> int:
        """How much of the partial copy is what the file begins with.

        The last piece may have holes, because its blocks were under way at once: it is written again.
        """
        assert self._sftp is not None
        if not await self._sftp.exists(part):
            return 0
        size = (await self._sftp.stat(part)).size or 0
        whole = max(0, min(size, source.stat().st_size) - 1) // PIECE * PIECE
        if whole == 0 or size > source.stat().st_size:
            return 0
        there = await self._command(f"head -c {whole} {shlex.quote(part)} | sha256sum", None)
        digest = hashlib.sha256()
        with source.open("rb") as file:
            for _ in range(whole // PIECE):
                digest.update(file.read(PIECE))
        return whole if there.stdout.split()[:1] == [digest.hexdigest()] else 0

    @contextlib.contextmanager
    def _told(self, target: str = "") -> Iterator[None]:
        """Failures of the connection and of SFTP as one sentence each."""
        import asyncssh

        try:
            yield
        except (asyncssh.SFTPNoSpaceOnFilesystem, asyncssh.SFTPQuotaExceeded) as error:
            raise JobError("the device's disk is full", where=target, fix="free some space there") from error
        except (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection) as error:
            raise self._cut(error.reason) from error
        except asyncssh.SFTPError as error:
            raise JobError(
                f"the device cannot write it ({error.reason})",
                where=target,
                fix="see its disk and permissions",
            ) from error
        except (asyncssh.DisconnectError, asyncssh.ChannelOpenError) as error:
            raise self._cut(error.reason) from error
        except (ConnectionError, BrokenPipeError) as error:
            raise self._cut(str(error)) from error

    def _cut(self, reason: str) -> ConnectionCutError:
        said = reason or "no reason given"
        return ConnectionCutError(
            f"the connection to {self.name} broke ({said})",
            fix="run the command again: it goes on from there",
        )


def _nothing() -> Any:
    import asyncssh

    return asyncssh.DEVNULL


def _address(spec: str) -> tuple[str, str, int]:
    fix = "write ssh://USER@HOST[:PORT]"
    try:
        parts = urllib.parse.urlsplit(spec)
        user, host, port = parts.username, parts.hostname, parts.port or 22
    except ValueError as error:
        raise RequestError(f"{spec!r} is not an address ({error})", fix=fix) from error
    if parts.scheme != "ssh" or not user or not host or parts.path.strip("/") or parts.query:
        raise RequestError(f"{spec!r} is not an address of a user on a host", fix=fix)
    if parts.password:
        raise RequestError("a password does not belong on a command line", fix="use a key: ssh-copy-id")
    return user, host, port


async def _open(user: str, host: str, port: int, name: str) -> asyncssh.SSHClientConnection:
    import asyncssh

    try:
        return await asyncssh.connect(
            host,
            port,
            username=user,
            connect_timeout=CONNECT_SECONDS,
            keepalive_interval=KEEPALIVE_SECONDS,
        )
    except asyncssh.HostKeyNotVerifiable as error:
        raise await _host_key(host, port, name) from error
    except asyncssh.PermissionDenied as error:
        port_option = "" if port == 22 else f"-p {port} "
        raise RequestError(
            f"{name} lets none of your keys in", fix=f"install one: ssh-copy-id {port_option}{user}@{host}"
        ) from error
    except (TimeoutError, asyncssh.TimeoutError) as error:
        raise JobError(
            f"{host} did not answer within {CONNECT_SECONDS} s", fix="see that it is on and on this network"
        ) from error
    except socket.gaierror as error:
        raise RequestError(f"no host is called {host!r}", fix="check the name, or use its address") from error
    except ConnectionRefusedError as error:
        raise JobError(
            f"{host} refuses SSH on port {port}", fix="start its SSH server, or name the right port"
        ) from error
    except (asyncssh.Error, OSError) as error:
        raise JobError(f"no SSH connection to {name} ({error})", fix="try it with ssh first") from error


async def _host_key(host: str, port: int, name: str) -> RequestError:
    """Why the host's key was not taken: another one is known, or none."""
    import asyncssh

    path = Path.home() / ".ssh" / "known_hosts"
    known: Any = ()
    with contextlib.suppress(OSError, ValueError):
        known = asyncssh.read_known_hosts(str(path)).match(host, "", None if port == 22 else port)[0]
    entry = host if port == 22 else f"[{host}]:{port}"
    if known:
        return RequestError(
            f"{name} shows another host key than the one in {path}: this may be another machine",
            fix=f"if it was set up anew, forget the old key with ssh-keygen -R '{entry}' and connect again",
        )
    shown = None
    with contextlib.suppress(Exception):
        shown = await asyncssh.get_server_host_key(host, port, config=[])
    fingerprint = f" {shown.get_fingerprint()}" if shown is not None else ""
    return RequestError(
        f"{name} shows the host key{fingerprint}, which is not in {path}",
        fix="compare it on the device with ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub, "
        f"then add it: ssh-keyscan -p {port} {host} >> {path}",
    )
