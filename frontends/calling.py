"""How a torch module is called: its example inputs by name, its outputs as named tensors."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgec.core.errors import RequestError

if TYPE_CHECKING:
    import torch


@dataclasses.dataclass(frozen=True)
class Binding:
    """The way the example inputs call the module.

    Attributes:
        tensors: the example tensors by input name, in the order of the call.
        positional: names of positional arguments, in order; tensors and constants.
        keywords: names of keyword arguments.
        constants: arguments that are no tensors (numbers, flags, None); part of the graph.
    """

    tensors: dict[str, torch.Tensor]
    positional: tuple[str, ...]
    keywords: tuple[str, ...]
    constants: dict[str, Any]

    def call(self, module: Callable[..., Any], tensors: Mapping[str, torch.Tensor]) -> Any:
        """Call the module with other tensors in the examples' places."""
        values = {**self.constants, **tensors}
        return module(
            *(values[name] for name in self.positional), **{name: values[name] for name in self.keywords}
        )


def bind(module: torch.nn.Module, example_inputs: object, where: str, names: Sequence[str] = ()) -> Binding:
    """Name the example inputs: a dict's keys, or the parameters of `forward` for a tuple or a tensor.

    Args:
        module: the module.
        example_inputs: a tensor, a tuple or a dict.
        where: the source, for messages.
        names: names of a tuple's entries, instead of those of `forward`.

    Raises:
        RequestError: the example inputs are none, or hold something that cannot be an input.
    """
    import torch

    if isinstance(example_inputs, Mapping):
        named = {str(name): value for name, value in example_inputs.items()}
    else:
        values = list(example_inputs) if isinstance(example_inputs, (tuple, list)) else [example_inputs]
        named = dict(zip(names or _parameter_names(module, len(values)), values, strict=True))
    tensors, constants = {}, {}
    for name, value in named.items():
        if isinstance(value, torch.Tensor):
            tensors[name] = value.detach().cpu()
        elif value is None or isinstance(value, (bool, int, float, str)):
            constants[name] = value
        else:
            raise RequestError(
                f"example input {name!r} is a {type(value).__name__}, and an input must be a tensor",
                where=where,
                fix="give the tensors as a tuple, or as a dict from parameter name to tensor",
            )
    if not tensors:
        raise RequestError(
            "the example inputs hold no tensor", where=where, fix="give at least one example tensor"
        )
    by_keyword = isinstance(example_inputs, Mapping)
    return Binding(tensors, () if by_keyword else tuple(named), tuple(named) if by_keyword else (), constants)


def _parameter_names(module: torch.nn.Module, count: int) -> list[str]:
    names: list[str] = []
    try:
        for parameter in inspect.signature(module.forward).parameters.values():
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
                names.append(parameter.name)
    except (TypeError, ValueError):  # a compiled forward has no signature
        pass
    return (names + [f"input_{index}" for index in range(len(names), count)])[:count]


def named_tensors(output: object, where: str, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors in what a module returned, named by key, field or place; None is dropped.

    Raises:
        RequestError: there is something else in it.
    """
    import torch

    if isinstance(output, torch.Tensor):
        yield name or "output", output
        return
    if output is None:
        return
    entries: list[tuple[str, object]]
    if isinstance(output, Mapping):
        entries = [(str(key), value) for key, value in output.items()]
    elif dataclasses.is_dataclass(output) and not isinstance(output, type):
        entries = [(field.name, getattr(output, field.name)) for field in dataclasses.fields(output)]
    elif isinstance(output, tuple) and hasattr(output, "_fields"):
        entries = list(zip(output._fields, output, strict=True))
    elif isinstance(output, (tuple, list)):
        if len(output) == 1:
            yield from named_tensors(output[0], where, name)
            return
        entries = [(str(index) if name else f"output_{index}", value) for index, value in enumerate(output)]
    else:
        raise RequestError(
            f"the module returns a {type(output).__name__}"
            + (f" in {name!r}" if name else "")
            + ", and an output must be a tensor",
            where=where,
            fix="let forward return tensors, or a tuple or dict of them",
        )
    for key, value in entries:
        clean = re.sub(r"\W+", "_", key)
        yield from named_tensors(value, where, f"{name}_{clean}" if name else clean)
