"""Every plugin's kernel that TVM can call, called as TVM calls it, against its function body."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import bodies
from drawn import as_given, difference, draw
from test_kernels import DTYPES, like_first

from edgec.plugins.bindings.tvm import PREFIX, kernel_object, plugin_entries
from edgec.plugins.infra import Kind, plugins
from edgec.plugins.kernels.cpu.build import X86_64

pytestmark = pytest.mark.skipif(importlib.util.find_spec("tvm_ffi") is None, reason="TVM is not installed")

CASES = 40


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    import tvm_ffi

    made = tmp_path_factory.mktemp("tvm") / "kernels.so"
    parts = [str(kernel_object(list(plugin_entries().values()), X86_64)), "-o", str(made), "-pthread"]
    subprocess.run(["g++", "-shared", *parts], check=True)
    return tvm_ffi.load_module(str(made))


def called(library, op_type, inputs, outputs, attributes):
    import tvm_ffi

    numbers = plugin_entries()[op_type].numbers({**plugins()[op_type].attributes, **attributes})
    tensors = [tvm_ffi.from_dlpack(array) for array in [*inputs, *outputs]]
    library[f"{PREFIX}{op_type}"](*tensors[: len(inputs)], *numbers, 0, *tensors[len(inputs) :])


@pytest.mark.parametrize("op_type", sorted(plugin_entries()))
def test_a_kernel_as_tvm_calls_it(library, op_type):
    plugin, rng = plugins()[op_type], np.random.default_rng(21)
    for _ in range(CASES):
        feeds, attributes = draw(plugin, rng)
        expected = bodies.run_body(op_type, feeds, **attributes)
        arrays = [feeds[port.name] for port in plugin.inputs]
        inputs = as_given(arrays, like_first(plugin.inputs), DTYPES["float32"])
        kinds = ["float32" if port.kind is Kind.LIKE_FIRST else port.kind.value for port in plugin.outputs]
        outputs = [np.full(one.shape, 77, kind) for one, kind in zip(expected, kinds, strict=True)]
        called(library, op_type, [np.array(each) for each in inputs], outputs, attributes)
        wrong = difference(op_type, outputs, expected, like_first(plugin.outputs), "float32")
        assert not wrong, (wrong, attributes)


def test_sizes_that_a_kernel_does_not_take_are_an_error(library):
    query, ends = np.ones((4, 1, 3), np.float32), np.array([0, 9], np.int32)
    with pytest.raises(ValueError, match="VarlenAttention at site 0"):
        called(library, "VarlenAttention", [query, query, query, ends], [np.empty_like(query)], {})
