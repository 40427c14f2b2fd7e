"""Attention by AMX's tiles: its products as plain loops on any processor, and as tiles where it has them."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from varlen_bodies import exact_attention

from edgec.plugins.infra import plugins
from edgec.plugins.kernels import calls
from edgec.plugins.kernels.cpu import build, native

GUARD = 4096


@pytest.fixture(scope="module", params=["plain loops", "tiles"])
def library(request, tmp_path_factory) -> ctypes.CDLL:  # type: ignore[no-untyped-def]
    if request.param == "tiles":
        if "amx" not in native.instructions():
            pytest.skip("this processor has no AMX")
        return native.library()
    made = tmp_path_factory.mktemp("amx") / "loops.so"
    source = plugins()["VarlenAttention"].kernels["cpu"].variants["amx"]
    flags = ["-O2", "-std=c++17", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-psabi"]
    compiled = [build.compiler(), *flags, *build.INCLUDE, "-DEDGEC_ISA=amx", str(source), "-o", str(made)]
    subprocess.run(compiled, check=True)
    return ctypes.CDLL(str(made))


def attention(
    library: ctypes.CDLL,
    arrays: dict[str, np.ndarray],
    *,
    window: int | None,
    scale: float,
    in_parts: bool,
) -> np.ndarray:
    """One call; fails if it writes behind its scratch memory or its output."""
    query = arrays["query"]
    output = np.full(query.size + GUARD, 77, ml_dtypes.bfloat16)
    asked: list[tuple[np.ndarray, int]] = []

    def scratch(size: int) -> int:
        block = np.full(size + GUARD + 64, 0xA5, np.uint8)
        start = -block.ctypes.data % 64
        asked.append((block, start + size))
        return block.ctypes.data + start

    def parallel(count: int, task: Callable[[int, int], None], data: int, by_turns: int) -> None:
        for index in reversed(range(count)):
            task(index, data)

    plugin = plugins()["VarlenAttention" if window is None else "VarlenWindowAttention"]
    given = calls.tensors(
        [
            (arrays[port.name].ctypes.data, arrays[port.name].shape, arrays[port.name].dtype.name)
            for port in plugin.inputs
        ]
    )
    made = calls.tensors([(output.ctypes.data, query.shape, "bfloat16")])
    values = {**plugin.attributes, "scale": scale, **({} if window is None else {"window": window})}
    settings_ = calls.attributes(values)
    # What ctypes makes of a function lives no longer than what holds it.
    hold = native.SCRATCH(scratch), native.PARALLEL(parallel) if in_parts else native.PARALLEL()
    call = native.Call(given, made, settings_, len(values), hold[1], hold[0], 1)
    assert getattr(library, f"edgec_{plugin.op_type}_amx")(ctypes.byref(call)) == 0
    assert all((block[end:] == 0xA5).all() for block, end in asked)
    assert (output[query.size :] == 77).all()
    return output[: query.size].reshape(query.shape).astype(np.float64)


def exactly(arrays: dict[str, np.ndarray], window: int | None, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """In float64, and how far bf16 may be from it.

    A weight and the output are each rounded to 8 bits: by 2^-8 of themselves; a weight is a power of two to
    1e-4 of itself before, in the sum below too. Logits are sums in float32.
    """
    output, mixed, terms = exact_attention(arrays, scale, window)
    unsure = (2 * terms + 8) * np.finfo(np.float32).eps
    return output, (2.0**-7 + 2e-4 + 2 * unsure) * 1.01 * mixed + 1e-30


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(
        st.one_of(st.integers(0, 9), st.sampled_from([31, 32, 33, 64, 97, 256, 257, 300])),
        min_size=1,
        max_size=3,
    ),
    heads=st.integers(1, 2),
    depth=st.sampled_from([1, 3, 8, 20, 32, 33, 64, 80]),
    spread=st.sampled_from([0.3, 1.0, 20.0]),
    window=st.one_of(st.none(), st.sampled_from([0, 5, 40])),
    in_parts=st.booleans(),
    seed=st.integers(0, 999),
)
def test_it_is_attention(library, lengths, heads, depth, spread, window, in_parts, seed) -> None:  # type: ignore[no-untyped-def]
    drawn = np.random.default_rng(seed)
    ends = np.cumsum([0, *lengths]).astype(np.int32)
    arrays: dict[str, np.ndarray] = {
        name: (spread * drawn.normal(size=(ends[-1], heads, depth))).astype(ml_dtypes.bfloat16)
        for name in ("query", "key", "value")
    }
    arrays["cu_seqlens"] = ends
    # Places rise within a sequence, with holes.
    arrays["places"] = np.concatenate(
        [np.sort(drawn.choice(2 * length + 1, length, replace=False)) for length in lengths]
    ).astype(np.int32)
    scale = depth**-0.5
    found = attention(library, arrays, window=window, scale=scale, in_parts=in_parts)
    expected, allowed = exactly(arrays, window, scale)
    assert (np.abs(found - expected) <= allowed).all()


def test_a_logit_that_is_no_number_spoils_its_own_query_only(library) -> None:  # type: ignore[no-untyped-def]
    drawn = np.random.default_rng(1)
    arrays: dict[str, np.ndarray] = {
        name: drawn.normal(size=(70, 1, 32)).astype(ml_dtypes.bfloat16) for name in ("query", "key", "value")
    }
    arrays["cu_seqlens"] = np.array([0, 70], np.int32)
    arrays["query"][40, 0, 3] = np.nan
    found = attention(library, arrays, window=None, scale=0.2, in_parts=False)
    assert np.isnan(found[40]).all()
    assert np.isfinite(np.delete(found, 40, axis=0)).all()
