"""The jobs that a cluster is given: every cell once, a device's cells one at a time."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from edgec.core.errors import RequestError
from edgec.sweep import kubernetes


def test_every_cell_is_one_index_of_one_job(stand):
    names = ("a.onnx", "b.onnx", "c.onnx")
    plan = stand.plan(*names, targets=("x86", "coreml"), devices={"x86": "bench-box"})
    text = kubernetes.jobs(plan, stand.folder / "p.toml", "registry/edgec:1", "shared", 2)
    jobs = [json.loads(document) for document in text.split("---\n")]
    assert [job["spec"]["parallelism"] for job in jobs] == [1, 2]
    assert len({job["metadata"]["name"] for job in jobs}) == 2
    ran = []
    (stand.folder / "edgec").write_text('#!/bin/sh\necho "$@"\n')
    (stand.folder / "edgec").chmod(0o755)
    for job in jobs:
        pod = job["spec"]["template"]["spec"]
        [container] = pod["containers"]
        assert container["image"] == "registry/edgec:1"
        assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == "shared"
        for index in range(job["spec"]["completions"]):
            path = {"PATH": f"{stand.folder}:{os.environ['PATH']}", "JOB_COMPLETION_INDEX": str(index)}
            said = subprocess.run(container["command"], env=path, capture_output=True, text=True, check=True)
            *words, number = said.stdout.split()
            assert words == ["sweep", "/sweep/p.toml", "-o", "/sweep/results", "--cell"]
            has_device = "nodeSelector" in pod
            assert (plan.cells[int(number)].device == "bench-box") == has_device
            ran.append(int(number))
    assert sorted(ran) == list(range(6))


def test_a_file_that_pods_do_not_see_is_refused(stand):
    plan = stand.plan("a.onnx")
    with pytest.raises(RequestError, match="lies outside the plan's folder"):
        kubernetes.jobs(plan, stand.folder / "deeper" / "p.toml", "edgec", "shared", 1)
