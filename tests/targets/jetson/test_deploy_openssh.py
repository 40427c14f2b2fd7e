"""`edgec deploy` against OpenSSH's own server, where it is installed."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

asyncssh = pytest.importorskip("asyncssh")

from device_bundles import device_environment, write_bundle  # noqa: E402

from edgec.cli.main import run  # noqa: E402
from edgec.core.bundle import seal  # noqa: E402
from edgec.devices import deployment  # noqa: E402

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:" + os.environ["PATH"])


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An sshd of this user on loopback, whose sessions are on a simulated device with a home of their own."""
    if SSHD is None:
        pytest.skip("sshd is not installed")
    user, home = tmp_path / "user", tmp_path / "home"
    (user / ".ssh").mkdir(parents=True)
    home.mkdir()
    keys = {name: asyncssh.generate_private_key("ssh-ed25519") for name in ("user", "host")}
    for name, path in (("user", user / ".ssh" / "id_ed25519"), ("host", tmp_path / "host_key")):
        keys[name].write_private_key(str(path))
        path.chmod(0o600)
    keys["user"].write_public_key(str(tmp_path / "authorized_keys"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    device = device_environment()
    names = ["PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "EDGEC_SIMULATED_GPU"]
    settings = " ".join(f'{name}="{device[name]}"' for name in names)
    config = tmp_path / "sshd_config"
    config.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {tmp_path / 'host_key'}\nPidFile none\nUsePAM no\n"
        f"AuthorizedKeysFile {tmp_path / 'authorized_keys'}\nStrictModes no\nPermitRootLogin yes\n"
        f'Subsystem sftp internal-sftp\nSetEnv {settings} HOME="{home}"\n'
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # its own start script makes it
    server = subprocess.Popen([SSHD, "-D", "-e", "-f", str(config)], stderr=subprocess.PIPE, text=True)
    public = keys["host"].export_public_key().decode().strip()
    (user / ".ssh" / "known_hosts").write_text(f"[127.0.0.1]:{port} {public}\n")
    monkeypatch.setenv("HOME", str(user))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.setattr(deployment, "_BENCH", "bench --blocks 2 --seconds 0.01")
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if server.poll() is not None:
                pytest.skip(f"sshd does not start here: {server.stderr.read() if server.stderr else ''}")
            time.sleep(0.1)
        yield f"ssh://{getpass.getuser()}@127.0.0.1:{port}"
    finally:
        server.terminate()
        server.communicate(timeout=30)


def test_a_bundle_is_deployed_and_a_partial_copy_gone_on_with(
    tmp_path: Path, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = write_bundle(tmp_path / "small.jetson.edgec")
    weights = np.random.default_rng(0).bytes(3 << 20)
    (bundle / "engine" / "model.onnx.data").write_bytes(weights)
    manifest = json.loads((bundle / "manifest.json").read_text())
    seal(bundle, {key: value for key, value in manifest.items() if key not in ("files", "sha256")})
    part = tmp_path / "home/.edgec/small.jetson.staging/bundle/engine/model.onnx.data.part"
    part.parent.mkdir(parents=True)
    # The first piece as it is, and a second one with a hole.
    part.write_bytes(weights[: 1 << 20] + bytes(1 << 19))
    status = run(["deploy", str(bundle), address, "--json"], debug=False)
    fields = json.loads(capsys.readouterr().out)
    assert status == 0, fields
    assert fields["measured"]["verified"]["passed"]
    there = tmp_path / "home" / ".edgec" / "small.jetson"
    assert (there / "bundle" / "engine" / "model.onnx.data").read_bytes() == weights
    assert (there / "bundle.device" / "model.engine").is_file()
