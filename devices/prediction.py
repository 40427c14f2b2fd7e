"""How long a program may take on a device that nobody ran it on: a roofline over what its vendor states.

A prediction, never a measurement. Per op, the larger of arithmetic over the accelerator's rate and of
weights over the memory's bandwidth; plus the cost of each dispatch. The constants come from what others
measured on two chips, and the band around the middle shows how far they are apart. Not modelled: heat,
other work on the device, power states, activations that leave the accelerator's memory, and arithmetic of
ops that run elsewhere. A figure outside of its band is no surprise; only the order of magnitude is meant.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from edgec.devices.profiles import DeviceProfile


@dataclasses.dataclass(frozen=True)
class Constant:
    """A number of the model and the range that measurements of it span.

    Attributes:
        middle: what the prediction takes.
        best: what the fast end of the band takes.
        worst: what the slow end takes.
        why: what it is, and who measured it.
    """

    middle: float
    best: float
    worst: float
    why: str


RATE_SHARE = Constant(
    0.30,
    1.0,
    0.20,
    "share of the stated rate that fp16 products reach: 3.25 of 11 TFLOP/s on M1 (ANEForge, Capabilities), "
    "3.3 of 15.8 on M2 Pro (aneforge/ane-rooflines), about 12 of 11 in convolutions on M1 (arXiv 2606.22283)",
)
BANDWIDTH_SHARE = Constant(
    0.25,
    1.0,
    0.13,
    "share of the stated bandwidth that weights stream at: 9 of 68 GB/s on M1, 57 of 153 GB/s on M5 "
    "(ANEForge, Capabilities)",
)
DISPATCH_MS = Constant(
    0.22,
    0.11,
    0.23,
    "one dispatch: 0.22 ms on M1, 0.11 ms on M5 (ANEForge), 0.23 ms on M1 (arXiv 2606.22283)",
)
INT8_FROM = 30.0
"""Stated rates from here on, TOP/s, count int8: the generation that states 35 and 38 measures 18 TFLOP/s in
fp16 and 34 TOP/s in int8 (gist Anemll/49e219448ad350ef67ff4bfdcb9ebd8c, on M5). fp16 has half."""


@dataclasses.dataclass(frozen=True)
class Work:
    """One op's work.

    Attributes:
        name: its name.
        macs: multiply-accumulates.
        weight_bytes: weights it reads.
        accelerated: whether the accelerator is expected to run it.
        certain: whether no rule doubts that.
    """

    name: str
    macs: int
    weight_bytes: int
    accelerated: bool
    certain: bool = True


@dataclasses.dataclass(frozen=True)
class PredictedLatency:
    """A predicted latency, milliseconds.

    Attributes:
        device: the profile's name.
        title: the device's name.
        p50: the prediction.
        low: the fast end of its band.
        high: the slow end; infinite where nothing tells it.
        dispatches: how often the accelerator is started.
        bound: `arithmetic`, `bandwidth` or `dispatch`: what takes the most.
        why: how it came about, one sentence.
    """

    device: str
    title: str
    p50: float
    low: float
    high: float
    dispatches: int
    bound: str
    why: str


@dataclasses.dataclass(frozen=True)
class Unpredicted:
    """A device without a prediction, and why."""

    device: str
    title: str
    why: str


def predict(
    profile: DeviceProfile, work: Sequence[Work], *, precision: str = "fp16"
) -> PredictedLatency | Unpredicted:
    """The latency of a program on a device's neural processor, or on a Jetson's GPU.

    Args:
        profile: what the vendor states.
        work: the program's ops, in order.
        precision: `fp32`, `fp16` or `int8`; neural processors compute in fp16 whatever it says.
    """
    if profile.kind == "jetson":
        return _on_gpu(profile, work, precision)
    stated = profile.compute.get("npu_tops")
    if stated is None:
        return Unpredicted(profile.name, profile.title, "its vendor states no rate of its neural processor")
    if not any(item.accelerated for item in work):
        return Unpredicted(
            profile.name, profile.title, "nothing of the program is expected on its neural processor"
        )
    counts_int8 = stated.value >= INT8_FROM
    rate = stated.value * 1e12 / (2 if counts_int8 else 1)
    memory = profile.memory.get("bandwidth_gbps")
    bandwidth = None if memory is None else memory.value * 1e9
    certain = [item.accelerated and item.certain for item in work]
    expected = [item.accelerated for item in work]
    parts = _parts(work, expected, rate, bandwidth, "middle")
    low = sum(_parts(work, expected, rate, bandwidth, "best").values())
    high = sum(_parts(work, certain, rate, bandwidth, "worst").values())
    total = sum(parts.values())
    known = f"{stated.value:g} TOP/s" + (", taken as int8, half in fp16" if counts_int8 else "")
    known += (
        f" and {memory.value:g} GB/s"
        if memory is not None
        else "; no bandwidth is stated, so none is counted"
    )
    why = (
        f"between {low:.2g} and {high:.2g} ms: roofline at {RATE_SHARE.middle:.0%} of the stated {known}; "
        f"{_segments(expected)} {'dispatch' if _segments(expected) == 1 else 'dispatches'}"
    )
    bound = max(parts, key=lambda name: parts[name])
    return PredictedLatency(
        profile.name, profile.title, total, low, max(high, low), _segments(expected), bound, why
    )


def _on_gpu(profile: DeviceProfile, work: Sequence[Work], precision: str) -> PredictedLatency | Unpredicted:
    """The least a program takes on a GPU: a roofline at the whole stated rate and bandwidth.

    No measurement says which share of its rate such a GPU reaches on a network, nor what a launch costs, so
    none is assumed: the band has no upper end.
    """
    rate = _gpu_rate(profile, precision)
    memory = profile.memory.get("bandwidth_gbps")
    if rate is None or memory is None:
        lacking = "rate of its GPU" if rate is None else "bandwidth of its memory"
        return Unpredicted(
            profile.name, profile.title, f"its vendor states no {lacking} that {precision} could be told by"
        )
    parts = {"arithmetic": 0.0, "bandwidth": 0.0}
    for item in work:
        arithmetic = 2e3 * item.macs / rate
        streaming = 1e3 * item.weight_bytes / (memory.value * 1e9)
        parts["arithmetic" if arithmetic >= streaming else "bandwidth"] += max(arithmetic, streaming)
    total = sum(parts.values())
    why = (
        f"at least {total:.2g} ms: roofline at the whole stated {rate / 1e12:.3g} T/s in {precision} and "
        f"{memory.value:g} GB/s, launches not counted"
    )
    bound = max(parts, key=lambda name: parts[name])
    return PredictedLatency(profile.name, profile.title, total, total, math.inf, len(work), bound, why)


def _gpu_rate(profile: DeviceProfile, precision: str) -> float | None:
    """Operations a second that the vendor states, or that follow from what it states."""
    figures = {name: figure.value for name, figure in profile.compute.items()}
    int8 = figures.get("int8_dense_tops")
    if precision == "int8" and int8 is not None:
        return int8 * 1e12
    if precision == "fp32":
        cores, clock = figures.get("cuda_cores"), figures.get("gpu_max_mhz")
        # A core does a multiplication and an addition a cycle.
        return None if cores is None or clock is None else 2 * cores * clock * 1e6
    if "fp16_dense_tflops" in figures:
        return figures["fp16_dense_tflops"] * 1e12
    # Tensor cores do half as many products in fp16 as in int8 (NVIDIA Ampere architecture whitepaper).
    return None if int8 is None else int8 / 2 * 1e12


def _parts(
    work: Sequence[Work], accelerated: Sequence[bool], rate: float, bandwidth: float | None, end: str
) -> dict[str, float]:
    """Milliseconds by what bounds them, with the constants at one end of their ranges."""
    parts = {"arithmetic": 0.0, "bandwidth": 0.0}
    for item, runs in zip(work, accelerated, strict=True):
        if not runs:
            continue
        arithmetic = 2e3 * item.macs / (rate * getattr(RATE_SHARE, end))
        streaming = 0.0
        if bandwidth is not None:
            streaming = 1e3 * item.weight_bytes / (bandwidth * getattr(BANDWIDTH_SHARE, end))
        parts["arithmetic" if arithmetic >= streaming else "bandwidth"] += max(arithmetic, streaming)
    parts["dispatch"] = _segments(accelerated) * getattr(DISPATCH_MS, end)
    return parts


def _segments(accelerated: Sequence[bool]) -> int:
    """Runs of ops on the accelerator: each is started once."""
    return sum(now and not before for before, now in zip((False, *accelerated), accelerated, strict=False))
