"""Running a torch module in float64 without touching it.

Widening its parameters is not enough: modules make tensors of float32 as they run, or cast to it by name. So
every operation is seen as torch dispatches it: tensors of float32 become float64 as they are read, and what
asks for float32 gets float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map


def call_in_float64(module: torch.nn.Module) -> Callable[..., Any]:
    """The module as a function that computes in float64, without gradients; the module stays as it is.

    Tensors of float32 that it is given are widened. Its parameters are widened once, here.
    """
    with torch.no_grad():
        state = {
            name: _widened(tensor.detach())
            for name, tensor in [*module.named_parameters(), *module.named_buffers()]
        }

    def called(*args: Any, **kwargs: Any) -> Any:
        with torch.no_grad(), _InFloat64():
            wide = tree_map(_widened, (args, kwargs))
            return torch.func.functional_call(module, state, *wide)

    return called


class _InFloat64(TorchDispatchMode):
    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        written = {argument.name for argument in func._schema.arguments if _is_written(argument)}
        names = [argument.name for argument in func._schema.arguments]
        wide = [
            value if name in written else tree_map(_widened, value)
            for name, value in zip(names, args, strict=False)
        ]
        named = {
            name: value if name in written else tree_map(_widened, value)
            for name, value in (kwargs or {}).items()
        }
        if "dtype" in names and named.get("dtype") is None and _makes_float(func, names, args, named):
            named["dtype"] = torch.float64
        return func(*wide, **named)


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def _widened(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.double() if value.dtype == torch.float32 else value
    return torch.float64 if value is torch.float32 else value


_FACTORIES = frozenset(
    {"empty", "eye", "full", "linspace", "logspace", "ones", "rand", "randn", "scalar_tensor", "zeros"}
)


def _makes_float(func: Any, names: Sequence[str], args: Sequence[Any], named: Mapping[str, Any]) -> bool:
    """Whether a call that names no type makes numbers of torch's default one, which is float32."""
    name = func._schema.name.removeprefix("aten::")
    if len(args) > names.index("dtype"):
        return False
    if name == "full":
        fill = args[1] if len(args) > 1 else named.get("fill_value")
        return isinstance(fill, float)
    if name == "arange":
        return any(isinstance(bound, float) for bound in args)
    return name in _FACTORIES
