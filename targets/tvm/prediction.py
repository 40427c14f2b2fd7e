"""The least that a model's products take on a core: predicted from what its maker states, never measured.

Multiply-accumulates over the rate of the core's vector units, all four cores of a usual board at work. What
lies between the products, memory, and heat are not in it: a board takes longer, how much longer is not known
until one is measured.
"""

from __future__ import annotations

import dataclasses
import math

import onnx_ir as ir

from edgec.passes.editing import sizes

CORES_AT_WORK = 4


@dataclasses.dataclass(frozen=True)
class Rate:
    """What a core's vector units do.

    Attributes:
        device: a board that has it.
        macs: fp32 multiply-accumulates in a cycle: 4 for each 128-bit FMLA that begins in one (Arm's Software
            Optimization Guide of the core).
        gigahertz: the board's clock.
    """

    device: str
    macs: int
    gigahertz: float


RATES = {
    "cortex-a72": Rate("Raspberry Pi 4 (Cortex-A72, 1.5 GHz)", 4, 1.5),
    "cortex-a76": Rate("Raspberry Pi 5 (Cortex-A76, 2.4 GHz)", 8, 2.4),
    "neoverse-n1": Rate("Ampere Altra (Neoverse N1, 3.0 GHz)", 8, 3.0),
}


def multiply_accumulates(model: ir.Model) -> int:
    """Of all products of a lowered model with known sizes."""
    total = 0
    for node in model.graph:
        shapes = [sizes(value) or () for value in (*node.inputs[:2], node.outputs[0])]
        known = [tuple(size or 0 for size in shape) for shape in shapes]
        if len(known) < 3 or not known[0] or not known[2]:
            continue
        first, second, made = known
        if node.op_type in ("Linear", "MatMul"):
            total += math.prod(made) * first[-1]
        elif node.op_type in ("Convolution", "Conv"):
            total += math.prod(made) * math.prod(second[1:])
        elif node.op_type == "VarlenAttention":
            length = node.attributes["max_length"].as_int() if "max_length" in node.attributes else first[0]
            total += 2 * math.prod(first) * length
    return total


def least_latency(core: str, macs: int) -> list[dict[str, object]]:
    """What `report.latency.predicted` has of it: for the core that is named, or for all that are known."""
    return [
        {
            "name": "at the least: products alone",
            "device": rate.device,
            "p50": macs / (rate.macs * rate.gigahertz * 1e6 * CORES_AT_WORK),
            "why": f"{macs / 1e6:.0f} million multiply-accumulates at {rate.macs} a cycle on {CORES_AT_WORK} "
            "cores; the rest of the network, memory and heat are left out",
        }
        for name, rate in RATES.items()
        if core in ("", name)
    ]
