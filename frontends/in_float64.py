"""Running a torch module in float64 without touching it.

Widening its parameters is not enough: modules make tensors of float32 as they run, or cast to it by name. So
every operation is seen as torch dispatches it: tensors of float32 become float64 as they are read, and what
asks for float32 gets float64.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map


def call_in_float64(module: torch.nn.Module) -> Callable[..., Any]:
    """The module as a function that computes in float64, without gradients; the module stays as it is.

    Tensors of float32 that it is given are widened. Its parameters are widened once, here.
    """
    with torch.no_grad():
        wide = {id(tensor): _widened(tensor.detach()) for *_, tensor in _state(module)}

    def called(*args: Any, **kwargs: Any) -> Any:
        mode = _InFloat64()
        try:
            with torch.no_grad(), _holding(module, wide), mode:
                positional, named = tree_map(_widened, (args, kwargs))
                return module(*positional, **named)
        finally:
            if mode.met_control_flow:
                # `torch.cond` is compiled even where it runs at once, and what was compiled in here serves
                # nowhere else: the next call of the module, or its export, would fail.
                torch._dynamo.reset()

    return called


def _state(module: torch.nn.Module) -> list[tuple[dict[str, Any], str, torch.Tensor]]:
    """Every parameter and buffer, and the table that holds it; a module in two places counts once."""
    return [
        (table, name, tensor)
        for part in module.modules()
        for table in (part._parameters, part._buffers)
        for name, tensor in table.items()
        if tensor is not None
    ]


@contextlib.contextmanager
def _holding(module: torch.nn.Module, wide: Mapping[int, torch.Tensor]) -> Iterator[None]:
    """Within the block the module holds other tensors in place of its own.

    What it keeps for its next call (timm's attention biases, a table of positions) is put back too: made of
    these tensors, it is no use to its own. `torch.func.functional_call` does the same, and leaves a module
    that stands in two places with the others (torch 2.13).
    """
    own = _state(module)
    kept = _kept(module)
    try:
        for table, name, tensor in own:
            table[name] = wide.get(id(tensor), tensor)
        yield
    finally:
        for attributes, before in kept:
            attributes.clear()
            attributes.update(before)
        for table, name, tensor in own:
            table[name] = tensor


def _kept(module: torch.nn.Module) -> list[tuple[dict[Any, Any], dict[Any, Any]]]:
    """The attributes of every part and the dictionaries among them, each with what it holds now."""
    attributes = [vars(part) for part in module.modules()]
    inner = [value for each in attributes for value in each.values() if type(value) is dict]
    return [(each, dict(each)) for each in (*attributes, *inner)]


class _InFloat64(TorchDispatchMode):
    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.met_control_flow = False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if isinstance(func, torch._ops.HigherOrderOperator):
            return self._control_flow(func, args)
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

    def _control_flow(self, func: Any, args: Sequence[Any]) -> Any:
        """`torch.cond` on a value that is there takes one of its sides."""
        self.met_control_flow = True
        if func.name() != "cond":
            raise NotImplementedError(f"{func.name()} does not run in float64")
        decided, taken, other, operands = args
        with self:
            return (taken if bool(decided) else other)(*operands)


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
