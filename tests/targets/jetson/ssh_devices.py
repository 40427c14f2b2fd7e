"""A device behind a real SSH server on the loopback address: own host key, own home, simulated TensorRT."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncssh
from device_bundles import device_environment


class SshDevice:
    """The server's side.

    Attributes:
        home: the user's home there.
        environment: the environment of commands there.
        written: bytes that came over SFTP.
        cut_after: bytes after which the connection breaks; None for never.
        full_after: bytes after which the disk is full; None for never.
        cut_on: a word in a command at which the connection breaks.
    """

    def __init__(self, home: Path, user_key: asyncssh.SSHKey) -> None:
        self.home = home
        self.environment = {**device_environment(), "HOME": str(home)}
        self.host_key = asyncssh.generate_private_key("ssh-ed25519")
        self.user_key = user_key
        self.port = 0
        self.written = 0
        self.cut_after: int | None = None
        self.full_after: int | None = None
        self.cut_on: str | None = None
        self.commands: list[str] = []

    @property
    def address(self) -> str:
        return f"ssh://user@127.0.0.1:{self.port}"

    def known_hosts_line(self) -> str:
        return f"[127.0.0.1]:{self.port} {self.host_key.export_public_key().decode().strip()}\n"

    def files(self) -> set[str]:
        """What deployments left; ONNX Runtime, which stands for TensorRT, keeps a cache of its own."""
        files = (path.relative_to(self.home).as_posix() for path in self.home.rglob("*") if path.is_file())
        return {name for name in files if not name.startswith(".cache/")}


@contextmanager
def ssh_device(home: Path, user_key: asyncssh.SSHKey) -> Iterator[SshDevice]:
    """Serve a device for as long as the block lasts."""
    device = SshDevice(home, user_key)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    class Server(asyncssh.SSHServer):
        def begin_auth(self, username: str) -> bool:
            return True

        def public_key_auth_supported(self) -> bool:
            return True

        def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
            return key.public_data == device.user_key.public_data

    class Files(asyncssh.SFTPServer):
        def write(self, file_obj: Any, offset: int, data: bytes) -> int:
            device.written += len(data)
            if device.cut_after is not None and device.written > device.cut_after:
                self.channel.get_connection().abort()
            if device.full_after is not None and device.written > device.full_after:
                raise asyncssh.SFTPFailure("Failure")
            return super().write(file_obj, offset, data)

    async def handle(process: asyncssh.SSHServerProcess) -> None:
        command = process.command or ""
        device.commands.append(command)
        if device.cut_on and device.cut_on in command:
            process.channel.get_connection().abort()
            return
        child = await asyncio.create_subprocess_shell(
            command,
            cwd=device.home,
            env=device.environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

        async def pump(source: asyncio.StreamReader, target: asyncssh.SSHWriter) -> None:
            while data := await source.read(1 << 16):
                target.write(data)

        await asyncio.gather(pump(child.stdout, process.stdout), pump(child.stderr, process.stderr))
        process.exit(await child.wait())

    async def start() -> asyncssh.SSHAcceptor:
        return await asyncssh.create_server(
            Server, "127.0.0.1", 0, server_host_keys=[device.host_key], process_factory=handle,
            sftp_factory=Files, encoding=None,
        )  # fmt: skip

    async def stop(server: asyncssh.SSHAcceptor) -> None:
        server.close()
        await server.wait_closed()

    server = asyncio.run_coroutine_threadsafe(start(), loop).result(20)
    device.port = server.get_port()
    try:
        yield device
    finally:
        asyncio.run_coroutine_threadsafe(stop(server), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(20)
        loop.close()
