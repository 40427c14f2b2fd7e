"""Which precisions this machine's processor computes in."""

from __future__ import annotations

from edgec.core.errors import JobError
from edgec.devices.cpu import read_processor

_BF16 = ("avx512_bf16", "amx_bf16")
"""Instruction sets with a bf16 product, by the names of /proc/cpuinfo; one is enough."""


_INT8 = ("avx512_vnni", "avx_vnni", "amx_int8")
"""Instruction sets with an int8 product that sums in 32 bits; without one int8 is slower than fp32."""


def lacking(precision: str) -> str:
    """Why the processor is no good for a precision; empty where it is.

    Args:
        precision: `fp32`, `bf16` or `int8`.
    """
    needed = {"bf16": _BF16, "int8": _INT8}.get(precision, ())
    processor = read_processor()
    if not needed or any(name in processor.isa for name in needed):
        return ""
    return (
        f"{precision} needs a processor with {' or '.join(needed)}, and this one ({processor.model}) has "
        f"{', '.join(processor.isa) or 'neither'}"
    )


def require_bf16() -> None:
    """See that the processor has bf16 products.

    Raises:
        JobError: it has none: OpenVINO would then compute in fp32 and say nothing.
    """
    if why := lacking("bf16"):
        raise JobError(f"--precision {why}", fix="use --precision fp32")
