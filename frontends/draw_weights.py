"""Random weights under which every layer matters.

Fresh models are built to start training well: layer scales of 1e-6, residual branches that end in a
zero, biases and position tables of zeros, trivial batch statistics. A graph with such weights computes
the same with half of its layers wrong, so numerics measured on it say nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

_TINY = 1e-2
"""Weights that stay under this, or are all the same, are redrawn."""

_ADDED = ("bias", "beta", "pos", "token", "table", "embed")
"""Parts of the names of parameters that are added, in the words of the field."""

_FAR = 4.0
"""Features this much larger than what their layer was set for grow from layer to layer. A network whose
attention sharpens as they do then answers by chance, in float32 otherwise than in float64."""


def draw_weights(
    module: torch.nn.Module,
    seed: int,
    run: Callable[[], object] | None = None,
    more: Callable[[], object] | None = None,
) -> None:
    """Redraw the weights that make layers invisible, in place.

    - Scales (one value a channel, near 1 or near 0): uniform around their value, or in 0.3 to 0.9.
    - Biases: normal, standard deviation 0.1. Position tables, tokens and other added tensors: 0.5.
    - Matrices and kernels drawn so small that attention would be flat: normal, 1 / sqrt(fan-in).
    - Batch statistics: those of the activations in one run, moved by up to a third, so that
      activations neither vanish nor explode.

    Args:
        module: the module, in evaluation mode.
        seed: of the generator; the same seed gives the same weights.
        run: runs the module once on a typical input; without it batch statistics are drawn blindly.
        more: runs it on more such inputs, whose statistics are taken where those of `run` do not hold.
    """
    generator = torch.Generator().manual_seed(seed)
    layers = dict(module.named_modules())
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.is_floating_point() and parameter.numel():
                path, _, own = name.rpartition(".")
                _redraw(layers[path], own, parameter, generator)
        _set_statistics(module, generator, run)
        if more is not None and not _holds(module, more):
            _set_statistics(module, generator, more)


def _redraw(layer: torch.nn.Module, name: str, weight: torch.Tensor, generator: torch.Generator) -> None:
    fan_in = _fan_in(layer, name, weight)
    if fan_in is not None:
        wanted = 1 / math.sqrt(fan_in)
        if float(weight.std(correction=0)) < 0.7 * wanted:
            weight.normal_(0, wanted, generator=generator)
        return
    largest = float(weight.abs().max())
    constant = weight.numel() == 1 or float(weight.std(correction=0)) == 0.0
    if largest >= _TINY and not constant:
        return
    added = any(part in name for part in _ADDED)
    one_a_channel = weight.numel() == max(weight.shape, default=1)
    if largest >= _TINY:
        weight.mul_(torch.empty_like(weight).uniform_(0.8, 1.2, generator=generator))
    elif one_a_channel and name.endswith(("bias", "beta")):
        weight.normal_(0, 0.1, generator=generator)
    elif added or not one_a_channel:
        weight.normal_(0, 0.5, generator=generator)
    else:
        weight.uniform_(0.3, 0.9, generator=generator)


def _fan_in(layer: torch.nn.Module, name: str, weight: torch.Tensor) -> int | None:
    """Inputs summed into one output, for the weights of products and convolutions."""
    if name != "weight" or weight.dim() < 2:
        return None
    if isinstance(layer, torch.nn.modules.conv._ConvTransposeNd):
        return weight.shape[0] * math.prod(weight.shape[2:]) // layer.groups
    if isinstance(layer, (torch.nn.Linear, torch.nn.modules.conv._ConvNd)):
        return math.prod(weight.shape[1:])
    return None


def _set_statistics(
    module: torch.nn.Module, generator: torch.Generator, run: Callable[[], object] | None
) -> None:
    norms = _norms(module)
    for layer in norms:
        layer.running_mean.normal_(0, 0.1, generator=generator)
        layer.running_var.uniform_(0.7, 1.4, generator=generator)
    if run is None or not norms:
        return
    # Each layer is set right before it runs, so that the next one sees what it then makes.
    handles = [layer.register_forward_pre_hook(_statistics_hook(generator)) for layer in norms]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()


def _norms(module: torch.nn.Module) -> list[Any]:
    return [
        layer
        for layer in module.modules()
        if isinstance(getattr(layer, "running_mean", None), torch.Tensor)
        and isinstance(getattr(layer, "running_var", None), torch.Tensor)
    ]


def _holds(module: torch.nn.Module, run: Callable[[], object]) -> bool:
    """Whether what every layer is given is about as large as its statistics say."""
    held = True

    def hook(layer: Any, arguments: tuple[torch.Tensor]) -> None:
        nonlocal held
        expected = layer.running_var.mean() + layer.running_mean.square().mean()
        held = held and bool(arguments[0].square().mean() <= _FAR**2 * expected)

    handles = [layer.register_forward_pre_hook(hook) for layer in _norms(module)]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return held


def _statistics_hook(generator: torch.Generator) -> Callable[[Any, tuple[torch.Tensor]], None]:
    seen: set[torch.nn.Module] = set()

    def hook(layer: Any, arguments: tuple[torch.Tensor]) -> None:
        features = arguments[0]
        if layer in seen or features.shape[1] != layer.running_mean.numel():
            return
        seen.add(layer)
        axes = [axis for axis in range(features.dim()) if axis != 1]
        mean = features.mean(axes)
        # The size of the layer's features, not how much a channel varies: random layers make channels
        # that hardly vary, and dividing by that would amplify the difference between any two inputs.
        spread = features.square().mean().sqrt() + 0.1
        shift = torch.empty_like(mean).normal_(0, 0.1, generator=generator)
        stretch = torch.empty_like(mean).uniform_(0.7, 1.4, generator=generator)
        layer.running_mean.copy_(mean + shift * spread)
        layer.running_var.copy_(spread.square() * stretch)

    return hook
