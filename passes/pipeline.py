"""The passes that every compile runs, in order."""

from __future__ import annotations

import importlib

from edgec.passes.manager import Pipeline

# Each pass, and the module that registers it. Imported when a pipeline is made, not before.
_MODULES = {
    "canonicalize.functions": "canonicalize.functions",
    "canonicalize.constants": "canonicalize.constants",
    "canonicalize.shapes": "canonicalize.shapes",
    "canonicalize.identity": "canonicalize.identity",
    "canonicalize.exporter": "canonicalize.exporter",
    "canonicalize.layout": "canonicalize.layout",
    "fuse.stacked_sum": "fuse.stacked_sum",
    "fuse.conv_batchnorm": "fuse.conv_batchnorm",
    "fuse.conv_branches": "fuse.conv_branches",
    "fuse.layer_norm": "fuse.layer_norm",
    "fuse.rms_norm": "fuse.rms_norm",
    "fuse.gelu": "fuse.gelu",
    "fuse.silu": "fuse.silu",
    "fuse.rope": "fuse.rope",
    "fuse.attention": "fuse.attention",
    "fuse.channel_attention": "fuse.channel_attention",
    "fuse.matmul_add": "fuse.matmul_add",
    "canonicalize.sink_slice": "canonicalize.sink_slice",
    "canonicalize.settle": "canonicalize.settle",
    "canonicalize.dead": "canonicalize.dead",
}

# Passes that a user puts in by name, `--passes +NAME`, or an option stands for: they cost accuracy.
_ON_REQUEST = ("tokens.merge", "tokens.prune", "tokens.restore")


def load_passes() -> None:
    """Import every module of a pass, so that all are registered."""
    for module in (*_MODULES.values(), *_ON_REQUEST):
        importlib.import_module(f"edgec.passes.{module}")


def default_pipeline() -> Pipeline:
    """The exact passes from an exporter's graph to the neutral dialect, in order."""
    load_passes()
    return Pipeline.named(list(_MODULES))
