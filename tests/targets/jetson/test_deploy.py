"""`edgec deploy`, against a real SSH server on loopback whose device side has a simulated TensorRT.

What TensorRT does is simulated (simulation/tensorrt.py, simulation/cudart.c); the SSH, the copying, the
builder's own code and the merge of the figures are real.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

asyncssh = pytest.importorskip("asyncssh")

from device_bundles import write_bundle  # noqa: E402
from ssh_devices import SshDevice, ssh_device  # noqa: E402

from edgec.cli.main import run  # noqa: E402
from edgec.core.bundle import Bundle, seal  # noqa: E402
from edgec.core.errors import JobError  # noqa: E402
from edgec.devices import deployment  # noqa: E402


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SshDevice]:
    """A device that lets this user in and whose host key this user knows."""
    user = tmp_path / "user"
    (user / ".ssh").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(user))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    key = asyncssh.generate_private_key("ssh-ed25519")
    key.write_private_key(str(user / ".ssh" / "id_ed25519"))
    (tmp_path / "home").mkdir()
    with ssh_device(tmp_path / "home", key) as served:
        (user / ".ssh" / "known_hosts").write_text(served.known_hosts_line())
        yield served


@pytest.fixture(autouse=True)
def short_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployment, "_BENCH", "bench --blocks 2 --seconds 0.01")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "small.jetson.edgec")


def deploy(bundle: Path, device: SshDevice | str, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict]:
    address = device if isinstance(device, str) else device.address
    capsys.readouterr()
    status = run(["deploy", str(bundle), address, "--json"], debug=False)
    return status, json.loads(capsys.readouterr().out)


def with_weights(bundle: Path, megabytes: int) -> Path:
    """Put a large file into a sealed bundle."""
    data = np.random.default_rng(0).bytes(megabytes << 20)
    (bundle / "engine" / "model.onnx.data").write_bytes(data)
    manifest = json.loads((bundle / "manifest.json").read_text())
    seal(bundle, {key: value for key, value in manifest.items() if key not in ("files", "sha256")})
    return bundle


def test_a_deployed_bundle_is_built_verified_measured_and_reported(
    bundle: Path, device: SshDevice, capsys: pytest.CaptureFixture[str]
) -> None:
    status, fields = deploy(bundle, device, capsys)
    assert status == 0, fields
    assert fields["engine"]["compute_capability"] == "8.7"
    assert fields["measured"]["verified"]["passed"]
    home = device.home / ".edgec" / "small.jetson"
    assert (home / "bundle.device" / "model.engine").is_file()
    assert not (device.home / ".edgec" / "small.jetson.staging").exists()
    opened = Bundle.open(bundle)  # still whole, with new seals
    report = opened.report()
    assert report["latency"]["measured"]
    assert report["latency"]["device"] == "jetson-orin-nano-8gb"
    assert report["latency"]["entries"][0]["p50"] == fields["measured"]["latency"]["p50"]
    assert [layer["source"] for layer in report["layers"]] == ["encoder.fc", "encoder.act"]
    assert report["device"]["power_mode"] == "15W"
    assert "jetson-orin-nano-8gb" in (bundle / "report.html").read_text()


def test_a_second_deployment_copies_only_what_changed_and_keeps_the_timing_cache(
    bundle: Path, device: SshDevice, capsys: pytest.CaptureFixture[str]
) -> None:
    with_weights(bundle, 2)
    assert deploy(bundle, device, capsys)[0] == 0
    device.written = 0
    old = device.home / ".edgec" / "small.jetson" / "bundle.device" / "timing.cache"
    old.write_bytes(old.read_bytes() + b" kept")
    assert deploy(bundle, device, capsys)[0] == 0
    assert old.read_bytes().endswith(b" kept")
    assert device.written < 1 << 20
    assert not [name for name in device.files() if ".staging" in name or ".old" in name]


def test_a_copy_that_was_cut_goes_on_where_it_stopped(
    bundle: Path, device: SshDevice, capsys: pytest.CaptureFixture[str]
) -> None:
    with_weights(bundle, 8)
    device.cut_after = 5 << 20
    status, fields = deploy(bundle, device, capsys)
    assert status == 1
    assert "broke" in fields["error"]["what"]
    assert [name for name in device.files() if name.endswith("model.onnx.data.part")]
    device.cut_after, device.written = None, 0
    status, fields = deploy(bundle, device, capsys)
    assert status == 0, fields
    assert device.written < 6 << 20
    there = device.home / ".edgec" / "small.jetson" / "bundle" / "engine" / "model.onnx.data"
    assert there.read_bytes() == (bundle / "engine" / "model.onnx.data").read_bytes()
    assert not [name for name in device.files() if name.endswith(".part")]


def test_a_partial_copy_of_another_file_is_not_gone_on_with(
    bundle: Path, device: SshDevice, capsys: pytest.CaptureFixture[str]
) -> None:
    with_weights(bundle, 4)
    part = device.home / ".edgec/small.jetson.staging/bundle/engine/model.onnx.data.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(3 << 20))
    status, fields = deploy(bundle, device, capsys)
    assert status == 0, fields
    assert device.written > 4 << 20


def test_a_device_with_another_tensorrt_is_refused_before_the_model_is_copied(
    bundle: Path, device: SshDevice, capsys: pytest.CaptureFixture[str]
) -> None:
    with_weights(bundle, 4)
    device.environment["EDGEC_SIMULATED_TENSORRT"] = "8.5.2"
    device.environment["EDGEC_SIMULATED_JETPACK"] = "5.1.2-b104"
    status, fields = deploy(bundle, device, capsys)
    assert status == 1
    assert "TensorRT 8.5.2" in fields["error"]["what"]
    assert "JetPack 5.1.2" in fields["error"]["what"]
    assert "compile again" in fields["error"]["fix"]
    assert device.written < 1 << 20
    assert device.files() == set()


def test_what_was_there_stays_when_the_build_fails(
    bundle: Path, device: SshDevice, capsys: pytest.CaptureFixture[str]
) -> None:
    assert deploy(bundle, device, capsys)[0] == 0
    before = {name: (device.home / name).read_bytes() for name in device.files()}
    device.environment["EDGEC_SIMULATED_BUILD"] = "fails"
    status, fields = deploy(bundle, device, capsys)
    assert status == 1
    assert "Could not find any implementation" in fields["error"]["what"]
    assert {name: (device.home / name).read_bytes() for name in device.files()} == before


def is_second(device: SshDevice, folder: str = "small.jetson") -> bool:
    """Whether the deployment in a folder has what `with_weights` added, and an engine."""
    placed = device.home / ".edgec" / folder
    assert (placed / "bundle.device" / "model.engine").is_file()
    return (placed / "bundle" / "engine" / "model.onnx.data").is_file()


def test_the_deployment_before_is_kept_and_comes_back_by_hand(
    bundle: Path, device: SshDevice, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run(["deploy", str(bundle), device.address, "--rollback"], debug=False) == 1
    assert "keeps no deployment before" in capsys.readouterr().err
    assert deploy(bundle, device, capsys)[0] == 0
    with_weights(bundle, 1)
    assert deploy(bundle, device, capsys)[0] == 0
    assert is_second(device)
    for second in (False, True):
        assert run(["deploy", str(bundle), device.address, "--rollback", "--json"], debug=False) == 0
        assert json.loads(capsys.readouterr().out)["rolled_back"]
        assert is_second(device) == second
        assert is_second(device, "small.jetson.previous") != second


def test_an_engine_that_fails_in_its_place_makes_room_for_the_one_before(
    bundle: Path, device: SshDevice, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert deploy(bundle, device, capsys)[0] == 0
    with_weights(bundle, 1)
    runs = deployment._Device.engine

    def fails_in_place(self: deployment._Device, command: str) -> dict:
        if command == "verify":
            raise JobError("output 'y' is off", where=self.root, fix="build it again")
        return runs(self, command)

    monkeypatch.setattr(deployment._Device, "engine", fails_in_place)
    status, fields = deploy(bundle, device, capsys)
    assert status == 1
    assert fields["error"]["what"] == "output 'y' is off; the engine before it is back"
    assert not is_second(device)
    assert not [name for name in device.files() if ".previous" in name or ".staging" in name]


def test_a_full_disk_is_said_before_and_during_the_copy(
    bundle: Path, device: SshDevice, capsys: pytest.CaptureFixture[str]
) -> None:
    with_weights(bundle, 4)
    device.environment["EDGEC_SIMULATED_DISK_KB"] = "2048"
    status, fields = deploy(bundle, device, capsys)
    assert (status, device.files()) == (1, set())
    assert "of its disk are free" in fields["error"]["what"]
    del device.environment["EDGEC_SIMULATED_DISK_KB"]
    device.full_after, device.written = 1 << 20, 0
    status, fields = deploy(bundle, device, capsys)
    assert (status, device.files()) == (1, set())
    assert "cannot write" in fields["error"]["what"]


def test_an_unknown_host_key_is_refused_and_shown(
    bundle: Path, device: SshDevice, capsys: pytest.CaptureFixture[str]
) -> None:
    (Path.home() / ".ssh" / "known_hosts").write_text("")
    status, fields = deploy(bundle, device, capsys)
    assert (status, device.files()) == (2, set())
    assert device.host_key.get_fingerprint() in fields["error"]["what"]
    assert "ssh-keyscan" in fields["error"]["fix"]


def test_another_host_key_than_the_known_one_is_refused(
    bundle: Path, device: SshDevice, capsys: pytest.CaptureFixture[str]
) -> None:
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()
    (Path.home() / ".ssh" / "known_hosts").write_text(f"[127.0.0.1]:{device.port} {other}\n")
    status, fields = deploy(bundle, device, capsys)
    assert (status, device.files()) == (2, set())
    assert "another machine" in fields["error"]["what"]
    assert "ssh-keygen -R" in fields["error"]["fix"]


def test_a_key_that_is_not_let_in_is_said(
    bundle: Path, device: SshDevice, capsys: pytest.CaptureFixture[str]
) -> None:
    device.user_key = asyncssh.generate_private_key("ssh-ed25519")
    status, fields = deploy(bundle, device, capsys)
    assert status == 2
    assert "none of your keys" in fields["error"]["what"]
    assert "ssh-copy-id" in fields["error"]["fix"]


def test_a_port_where_nobody_listens_is_said(
    bundle: Path, device: SshDevice, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    status, fields = deploy(bundle, f"ssh://user@127.0.0.1:{port}", capsys)
    assert status == 1
    assert f"refuses SSH on port {port}" in fields["error"]["what"]


@pytest.mark.parametrize("address", ["ssh://host", "ssh://user:secret@host", "ssh://user@host:x", "usb:1"])
def test_an_address_that_is_none_is_refused(
    bundle: Path, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, fields = deploy(bundle, address, capsys)
    assert status == 2
    assert fields["error"]["fix"]


def test_a_connection_that_breaks_while_building_is_said_and_the_next_deployment_works(
    bundle: Path, device: SshDevice, capsys: pytest.CaptureFixture[str]
) -> None:
    device.cut_on = "edgec_engine build"
    status, fields = deploy(bundle, device, capsys)
    assert status == 1
    assert "broke" in fields["error"]["what"]
    device.cut_on = None
    assert deploy(bundle, device, capsys)[0] == 0


def test_a_device_without_the_tools_is_said(
    bundle: Path, device: SshDevice, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "numpy.py").write_text("raise ImportError('No module named numpy')")
    device.environment["PYTHONPATH"] = str(broken)
    status, fields = deploy(bundle, device, capsys)
    assert status == 1
    assert "No module named numpy" in fields["error"]["what"]
    assert device.files() == set()


def test_this_machine_can_be_the_device(
    bundle: Path, device: SshDevice, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "EDGEC_SIMULATED_GPU"):
        monkeypatch.setenv(name, device.environment[name])
    status, fields = deploy(bundle, "local", capsys)
    assert status == 0, fields
    assert (Path.home() / ".edgec" / "small.jetson" / "bundle.device" / "model.engine").is_file()


def test_a_bundle_that_is_not_built_on_a_device_is_refused(
    bundle: Path, device: SshDevice, capsys: pytest.CaptureFixture[str]
) -> None:
    (bundle / "engine" / "plan.json").unlink()
    manifest = json.loads((bundle / "manifest.json").read_text())
    seal(bundle, {key: value for key, value in manifest.items() if key not in ("files", "sha256")})
    status, fields = deploy(bundle, device, capsys)
    assert status == 2
    assert "nothing to deploy" in fields["error"]["what"]
