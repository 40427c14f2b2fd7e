"""Giving a module new tensors, and what goes with them: sizes, numbers of heads, branches that left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from edgec.core.dialect import source_layer
from edgec.core.errors import JobError
from edgec.passes.slim.units import Unit
from edgec.slim.stand_ins import NarrowAttention, ZeroBranch

HEAD_COUNTS = (
    *("num_heads", "num_attention_heads", "n_heads", "n_head", "heads", "nhead"),
    *("num_kv_heads", "num_key_value_heads"),
)
"""Attributes by which attentions know how many heads they have (timm, transformers, and most model code)."""

HEAD_WIDTHS = ("attn_dim", "all_head_size", "inner_dim", "split_size")
"""Attributes that hold the width of all heads together."""


def set_tensors(module: nn.Module, tensors: Mapping[str, np.ndarray]) -> None:
    """Put new tensors in the places of parameters and buffers, wherever the module holds them.

    Args:
        module: changed.
        tensors: by the name of a parameter or buffer.
    """
    for name, array in tensors.items():
        path, _, own = name.rpartition(".")
        old = getattr(module.get_submodule(path), own)
        data = torch.from_numpy(np.array(array)).to(old.dtype)
        new = nn.Parameter(data, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else data
        for layer in module.modules():
            for held in (layer._parameters, layer._buffers):
                for key in [key for key, value in held.items() if value is old]:
                    held[key] = new  # type: ignore[assignment]
    for layer in module.modules():
        _set_sizes(layer)


def _set_sizes(layer: nn.Module) -> None:
    """Let what a layer says of its sizes be what its weight has; a bias of zeros becomes as long as that."""
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, torch.Tensor):
        return
    outputs = weight.shape[0]
    if isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = weight.shape
    elif isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        if layer.groups == layer.in_channels:  # depthwise: a group a channel
            layer.groups = outputs * layer.groups // layer.out_channels
        layer.out_channels, layer.in_channels = outputs, weight.shape[1] * layer.groups
    elif isinstance(layer, nn.modules.batchnorm._BatchNorm):
        layer.num_features = outputs
    elif isinstance(layer, nn.LayerNorm):
        layer.normalized_shape = tuple(weight.shape)
    elif type(layer).__name__ == "Conv1D" and hasattr(layer, "nf"):  # of transformers: inputs by outputs
        outputs = weight.shape[1]
        setattr(layer, "nf", outputs)  # noqa: B010
    else:
        return
    bias = getattr(layer, "bias", None)
    if isinstance(bias, nn.Parameter) and len(bias) != outputs and not bias.any():
        layer.bias = nn.Parameter(bias.new_zeros(outputs), requires_grad=bias.requires_grad)


def set_heads(module: nn.Module, unit: Unit, kept: int) -> None:
    """Let an attention have so many heads, by its attributes; `nn.MultiheadAttention` is replaced.

    An attention without such attributes takes the number from its weights, or fails when it runs.

    Args:
        module: the whole module; changed.
        unit: heads.
        kept: how many of them stay.

    Raises:
        JobError: it is an `nn.MultiheadAttention` of a form that has no narrow one.
    """
    top = _submodule(module, unit.layer)
    if isinstance(top, nn.MultiheadAttention):
        if top.in_proj_weight is None or top.bias_k is not None or top.add_zero_attn:
            raise JobError(
                f"layer {unit.layer}: a MultiheadAttention with bias_k, add_zero_attn or keys of another "
                "width cannot have fewer heads",
                fix=f"leave {unit.name} out of the plan",
            )
        _replace(module, unit.layer, NarrowAttention(top, kept))
        return
    for layer in () if top is None else top.modules():
        counts = {name: value for name in HEAD_COUNTS if isinstance(value := getattr(layer, name, None), int)}
        for name, count in counts.items():
            if count % unit.size == 0:
                setattr(layer, name, count * kept // unit.size)
        for name in HEAD_WIDTHS if counts else ():
            width = getattr(layer, name, None)
            if isinstance(width, int) and width % unit.size == 0:
                setattr(layer, name, width * kept // unit.size)


def leave_out(
    module: nn.Module, whole: ir.Model, unit: Unit, returned: Mapping[str, int], owners: Sequence[str]
) -> None:
    """Put zeros in the place of a residual branch.

    Args:
        module: the whole module; changed.
        whole: its graph before the cut.
        unit: an attention, an MLP or a convolution block.
        returned: of each layer that maps its first input to one of its shape, how many values it returns; 0
            for a tensor alone.
        owners: the layers that hold the branch's last weights.

    Raises:
        JobError: no layer of the module is the branch.
    """
    adds = {branch.add for branches in unit.branches for branch in branches}
    layers = {source_layer(node) for node in whole.graph if node.outputs[0].name in adds}
    inside = any(layer == unit.layer or layer.startswith(f"{unit.layer}.") for layer in layers)
    if unit.layer in returned and not inside:
        _replace(module, unit.layer, ZeroBranch(returned=returned[unit.layer]))
        return
    for owner in owners:
        layer = _submodule(module, owner)
        if isinstance(layer, nn.Linear):
            _replace(module, owner, ZeroBranch(layer.out_features))
            return
    raise JobError(
        f"{unit.name}: no layer of the module is this branch, so that zeros could take its place",
        fix="leave it out of the plan, or give the branch a module of its own",
    )


def _submodule(module: nn.Module, path: str) -> nn.Module | None:
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None


def _replace(module: nn.Module, path: str, new: nn.Module) -> None:
    """Put a module in another's place, in its mode."""
    new.train(module.get_submodule(path).training)
    parent, _, name = path.rpartition(".")
    setattr(module.get_submodule(parent), name, new)
    for layer in module.modules():
        if isinstance(layer, nn.TransformerEncoderLayer):
            layer.activation_relu_or_gelu = 0  # its fused path reads weights that may be gone
