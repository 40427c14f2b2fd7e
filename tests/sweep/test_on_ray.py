"""A sweep on a local cluster of two nodes, one of which is killed while it works."""

from __future__ import annotations

import threading

import pytest

from edgec.core.errors import RequestError
from edgec.sweep import on_ray
from edgec.sweep.sweep import Sweep

ray = pytest.importorskip("ray")


@pytest.fixture
def cluster():
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "resources": {"board": 1}})
    nodes.killed = nodes.add_node(num_cpus=1)
    yield nodes
    ray.shutdown()
    nodes.shutdown()


@pytest.mark.full
def test_a_node_killed_in_mid_sweep_loses_nothing(stand, cluster):
    names = [f"held{number}.onnx" for number in range(18)]
    plan = stand.plan(
        *names, "refused.onnx", "dies.onnx", targets=("x86", "coreml"), devices={"x86": "board"}
    )
    told = []

    def kill():
        while len(told) < 6:
            threading.Event().wait(0.05)
        cluster.remove_node(cluster.killed, allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    sweep = Sweep(plan, stand.runner)
    rows = sweep.go_on(lambda *work: on_ray.run(cluster.address, *work), told.append)
    killer.join()
    assert sorted(row.place for row in told) == sorted(row.place for row in rows)
    verdicts = [row.verdict for row in rows]
    assert len(rows) == 40
    assert [verdicts.count(verdict) for verdict in ("verified", "refused", "failed")] == [36, 2, 2]
    assert all((stand.out / row.bundle).is_dir() for row in rows)


@pytest.mark.full
def test_a_device_that_no_node_has_is_told_before_anything_runs(stand, cluster):
    plan = stand.plan("good.onnx", devices={"x86": "orin-nano"})
    with pytest.raises(RequestError, match="no node of the cluster has the device orin-nano"):
        on_ray.run(cluster.address, stand.runner, list(plan.cells), print)
    assert stand.calls == []
