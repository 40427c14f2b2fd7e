"""Exact rewrites from the neutral dialect to plain ONNX, for engines that know no better."""

from __future__ import annotations


def load_passes() -> None:
    """Import every module of a decomposition, so that all are registered."""
    from edgec.passes.decompose import (  # noqa: F401
        attention,
        col2im,
        gelu,
        layer_norm,
        norm_affine,
        plugins,
        pool_indices,
        quantised,
        rms_norm,
        rotary_embedding,
        sampled,
        scatter_add,
        spectrum,
    )
