"""Which precisions this machine's processor computes in."""

from __future__ import annotations

from edgec.core.errors import JobError
from edgec.devices.cpu import read_processor

_BF16 = ("avx512_bf16", "amx_bf16")
"""Instruction sets with a bf16 product, by the names of /proc/cpuinfo; one is enough."""


def require_bf16() -> None:
    """See that the processor has bf16 products.

    Raises:
        JobError: it has none: OpenVINO would then compute in fp32 and say nothing.
    """
    processor = read_processor()
    if not any(name in processor.isa for name in _BF16):
        raise JobError(
            f"--precision bf16 needs a processor with {' or '.join(_BF16)}, "
            f"and this one ({processor.model}) has {', '.join(processor.isa) or 'neither'}",
            fix="use --precision fp32",
        )
