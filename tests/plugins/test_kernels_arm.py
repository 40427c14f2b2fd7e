"""Every plugin's kernel compiled for ARM computes what its function body does, under QEMU."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "targets" / "tvm"))
import bodies
from arm_kernels import ArmKernels, missing
from drawn import as_given, difference, draw
from test_kernels import DTYPES, like_first

from edgec.plugins.infra import Kind, plugins
from edgec.plugins.kernels.cpu.build import with_cpu_kernels
from edgec.targets.tvm.machines import CORES

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

CASES = 25
"""Of each kernel and type; the long tests draw 500."""

KERNELS = [(plugin.op_type, dtype) for plugin in with_cpu_kernels() for dtype in plugin.kernels["cpu"].types]


@pytest.fixture(scope="module")
def arm():
    kernels = ArmKernels(CORES[""])
    yield kernels
    kernels.close()


def check(arm, op_type, dtype, seed, cases):
    plugin, rng = plugins()[op_type], np.random.default_rng(seed)
    for _ in range(cases):
        feeds, attributes = draw(plugin, rng)
        expected = bodies.run_body(op_type, feeds, **attributes)
        inputs = as_given(
            [feeds[port.name] for port in plugin.inputs], like_first(plugin.inputs), DTYPES[dtype]
        )
        outputs = [
            (array.shape, DTYPES[dtype] if port.kind is Kind.LIKE_FIRST else port.kind.value)
            for array, port in zip(expected, plugin.outputs, strict=True)
        ]
        found = arm.call(op_type, inputs, outputs, {**plugin.attributes, **attributes})
        wrong = difference(op_type, found, expected, like_first(plugin.outputs), dtype)
        assert not wrong, (wrong, attributes)


@pytest.mark.parametrize(("op_type", "dtype"), KERNELS)
def test_a_kernel_for_arm(arm, op_type, dtype):
    check(arm, op_type, dtype, 11, CASES)


@pytest.mark.full
@pytest.mark.parametrize(("op_type", "dtype"), KERNELS)
def test_a_kernel_for_arm_at_length(arm, op_type, dtype):
    check(arm, op_type, dtype, 12, 500)
