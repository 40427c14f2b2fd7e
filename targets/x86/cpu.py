"""Which precisions this machine's processor computes in."""

from __future__ import annotations

from edgec.core.errors import JobError
from edgec.devices.cpu import read_processor

_BF16 = ("avx512_bf16", "amx_bf16")
"""Instruction sets with a bf16 product, by the names of /proc/cpuinfo; one is enough."""


_DOT = ("avx512_vnni", "avx_vnni", "amx_int8")
"""Instruction sets with an int8 product that sums in 32 bits."""

_NEEDED = {
    ("openvino", "bf16"): _BF16,
    # AVX2 sums int8 products in 16 bits by pairs. Which layers are faster so than in fp32 is measured.
    ("openvino", "int8"): ("avx2", *_DOT),
    ("ort", "int8"): ("avx2", *_DOT),
}
"""Of each engine and precision: instruction sets of which one is enough."""


def lacking(engine: str, precision: str) -> str:
    """Why the processor is no good for a precision of an engine; empty where it is.

    Args:
        engine: `ort` or `openvino`.
        precision: `fp32`, `bf16` or `int8`.
    """
    needed = _NEEDED.get((engine, precision), ())
    processor = read_processor()
    if not needed or any(name in processor.isa for name in needed):
        return ""
    return (
        f"{precision} needs a processor with {' or '.join(needed)}, and this one ({processor.model}) has "
        f"{', '.join(processor.isa) or 'neither'}"
    )


def sums_in_16_bits() -> bool:
    """Whether int8 products are summed in pairs of 16 bits, which saturate where weights use all 8 bits."""
    return not any(name in read_processor().isa for name in _DOT)


def require_bf16() -> None:
    """See that the processor has bf16 products.

    Raises:
        JobError: it has none: OpenVINO would then compute in fp32 and say nothing.
    """
    if why := lacking("openvino", "bf16"):
        raise JobError(f"--precision {why}", fix="use --precision fp32")
