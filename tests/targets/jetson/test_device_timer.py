"""Times of segments on a connected device: a real SSH server whose device side has a simulated TensorRT."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

asyncssh = pytest.importorskip("asyncssh")

from ssh_devices import SshDevice, ssh_device  # noqa: E402

from edgec.core.progress import Silent  # noqa: E402
from edgec.devices import deployment  # noqa: E402
from edgec.devices.connections import connect  # noqa: E402
from edgec.targets import target_named  # noqa: E402
from edgec.targets.device_timer import DeviceTimer  # noqa: E402
from edgec.targets.segment_timer import graph_of  # noqa: E402
from edgec.targets.timers import timer_for  # noqa: E402


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SshDevice]:
    user = tmp_path / "user"
    (user / ".ssh").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(user))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.setattr(deployment, "_BENCH", "bench --blocks 2 --seconds 0.01")
    key = asyncssh.generate_private_key("ssh-ed25519")
    key.write_private_key(str(user / ".ssh" / "id_ed25519"))
    (tmp_path / "home").mkdir()
    with ssh_device(tmp_path / "home", key) as served:
        (user / ".ssh" / "known_hosts").write_text(served.known_hosts_line())
        yield served


def layer(width: int) -> ir.Model:
    """A linear layer."""
    weight = np.random.default_rng(0).standard_normal((16, width)).astype(np.float32) / 4
    given = ir.Value(name="x", shape=ir.Shape([1, 8, 16]), type=ir.TensorType(ir.DataType.FLOAT))
    constant = ir.Value(
        name="w", shape=ir.Shape(weight.shape), type=given.type, const_value=ir.tensor(weight, name="w")
    )
    node = ir.Node("", "MatMul", [given, constant], name="fc")
    node.outputs[0].name, node.outputs[0].type = "y", given.type
    node.outputs[0].shape = ir.Shape([1, 8, width])
    graph = ir.Graph(
        [given], node.outputs, nodes=[node], initializers=[constant], opset_imports={"": 23}, name="layer"
    )
    return ir.Model(graph, ir_version=11)


def test_each_network_is_deployed_verified_and_timed(device: SshDevice) -> None:
    target = target_named("jetson:orin-nano-8gb")
    networks = {width: graph_of(layer(width)) for width in (32, 16)}
    candidate = target.candidates(networks[32], "fp16")[0]
    with connect(device.address) as connection:
        timer = timer_for(target, candidate, connection=connection, progress=Silent())
        assert isinstance(timer, DeviceTimer)
        assert timer.kind == "measured"
        assert connection.name in timer.device.identity
        times = timer.times(networks)
    assert set(times) == {32, 16}
    assert all(time > 0 and spread >= 0 for time, spread in times.values())
    # One place for all of them, with the way back to the one before, and nothing half done beside it.
    there = {name.split("/")[1] for name in device.files()}
    assert there == {"latency-segment.jetson", "latency-segment.jetson.previous"}
