"""What a module's Python code reads of its inputs' values: a trace bakes the answers in.

`if x.sum() > 0:`, `float(x.max())` and `x.tolist()` take numbers out of tensors, and a tracer follows
tensors only. Reads of weights and constants, and of shapes, are the same on every input and are left out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import linecache
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_READS = (
    *("__bool__", "__int__", "__float__", "__complex__", "__index__", "__array__"),
    *("item", "tolist", "numpy", "is_nonzero", "equal", "allclose"),
)
"""Names of torch's functions that hand values of a tensor to Python."""

_LONGEST_LINE = 80


@dataclasses.dataclass(frozen=True, order=True)
class Place:
    """A line of code.

    Attributes:
        file: its file's name; from the package on where it is an installed one.
        line: its number.
        text: the line itself, empty where it cannot be read.
    """

    file: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" + (f" ({self.text})" if self.text else "")


@dataclasses.dataclass(frozen=True)
class Read:
    """One time that values were read.

    Attributes:
        place: where.
        value: what came out of it.
        by_code: whether the Python code got it; else torch did, for a size say, which a trace may follow.
    """

    place: Place
    value: object
    by_code: bool


@contextlib.contextmanager
def recorded(tensors: dict[str, torch.Tensor]) -> Iterator[list[Read]]:
    """Record what is read of anything that is computed from the tensors, while the context is open.

    A result whose size depends on values (`nonzero`) counts as a read of its size by torch.
    """
    import torch
    from torch.multiprocessing.reductions import StorageWeakRef
    from torch.overrides import TorchFunctionMode
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    # Weak references keep a storage's address from being given away again.
    depends = {StorageWeakRef(tensor.untyped_storage()) for tensor in tensors.values()}
    reads: list[Read] = []

    def is_from_inputs(arguments: object) -> bool:
        return any(
            isinstance(leaf, torch.Tensor) and StorageWeakRef(leaf.untyped_storage()) in depends
            for leaf in tree_leaves(arguments)
        )

    class Follow(TorchDispatchMode):
        """Marks what is computed from the inputs."""

        def __torch_dispatch__(
            self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            found = is_from_inputs((args, kwargs))
            results = func(*args, **(kwargs or {}))
            if not found:
                return results
            made = [leaf for leaf in tree_leaves(results) if isinstance(leaf, torch.Tensor)]
            depends.update(StorageWeakRef(tensor.untyped_storage()) for tensor in made)
            if torch.Tag.dynamic_output_shape in func.tags:
                reads.append(Read(_place(), tuple(tuple(tensor.shape) for tensor in made), by_code=False))
            elif torch.Tag.data_dependent_output in func.tags:
                reads.append(Read(_place(), _comparable(results), by_code=False))
            return results

    class Listen(TorchFunctionMode):
        """Notes what leaves for Python."""

        def __torch_function__(
            self,
            func: Callable[..., Any],
            types: object,
            args: tuple[Any, ...] = (),
            kwargs: dict[str, Any] | None = None,
        ) -> Any:
            is_read = getattr(func, "__name__", "") in _READS and is_from_inputs((args, kwargs))
            result = func(*args, **(kwargs or {}))
            if is_read:
                reads.append(Read(_place(), _comparable(result), by_code=True))
            return result

    with Follow(), Listen():
        yield reads


def _comparable(result: Any) -> object:
    data = getattr(result, "tobytes", None)
    return repr(result) if data is None else data()


def _place() -> Place:
    """The innermost line that is neither torch's nor edgec's."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if str(frame.f_globals.get("__name__")).partition(".")[0] not in ("torch", "edgec"):
            text = linecache.getline(name, frame.f_lineno).strip()
            return Place(_short(name), frame.f_lineno, text[:_LONGEST_LINE])
        frame = frame.f_back
    return Place("?", 0, "")


def _short(file: str) -> str:
    """Nothing of this machine's folders: what is said may end in a bundle."""
    _, installed, inside = file.rpartition("site-packages/")
    return inside if installed else Path(file).name
