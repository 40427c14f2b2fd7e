"""Ways to reach a device: this machine itself, or SSH."""

from __future__ import annotations

from edgec.core.errors import RequestError
from edgec.devices.connections.base import Connection


def connect(spec: str) -> Connection:
    """Connect to what the user named.

    Args:
        spec: `local`, or `ssh://USER@HOST[:PORT]`.

    Raises:
        RequestError: it names no device, or the device does not let us in.
        JobError: the device does not answer.
        MissingExtraError: SSH needs the extra `deploy`.
    """
    if spec == "local":
        from edgec.devices.connections.local import LocalConnection

        return LocalConnection()
    if spec.startswith("ssh://"):
        from edgec.devices.connections.ssh import SshConnection

        return SshConnection.open(spec)
    raise RequestError(f"{spec!r} names no device", fix="write ssh://USER@HOST[:PORT], or local")
