"""The `--input NAME:SHAPE:DTYPE` option: reading it, and matching it with what a model takes."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping, Sequence

from edgec.core.errors import RequestError
from edgec.core.graph import OpenSize, TensorSpec
from edgec.frontends.fixed_inputs import fixes_value, no_such_input

DTYPES = (
    "float16",
    "float32",
    "float64",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "bool",
)

_FORM = "NAME:SHAPE or NAME:SHAPE:DTYPE, for example pixel_values:1x3x224x224:float32"


@dataclasses.dataclass(frozen=True)
class InputRequest:
    """What the user said of one input.

    Attributes:
        name: the input's name; it may hold colons.
        shape: a size, or a name for a dimension left open (`?` is an open dimension without a name).
        dtype: a numpy dtype name, None where not given.
        other_shape: the shape's other reading, where names with an x in them leave two
            (`batchxseq` is one name or two).
        open_sizes: what its open dimensions may be, by name, where the user said so.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: str | None = None
    other_shape: tuple[int | str, ...] | None = None
    open_sizes: Mapping[str, OpenSize] = dataclasses.field(default_factory=dict)

    def of_rank(self, rank: int) -> InputRequest:
        """The reading of the shape that has the rank, where one has."""
        if len(self.shape) != rank and self.other_shape is not None and len(self.other_shape) == rank:
            return dataclasses.replace(self, shape=self.other_shape)
        return self

    def __str__(self) -> str:
        return option(self.name, self.shape, self.dtype)


def option(name: str, shape: Sequence[int | str], dtype: str | None) -> str:
    """The option's text for an input; `scalar` stands for a shape without dimensions."""
    text = "x".join(str(size) for size in shape) or "scalar"
    return f"{name}:{text}" if dtype is None else f"{name}:{text}:{dtype}"


def parse_input(text: str) -> InputRequest:
    """Read one `NAME:SHAPE[:DTYPE]`.

    A dimension is a positive size, a name (`seq`) or `?`; dimensions are parted by `x`, or by commas
    where a dimension's own name has an x in it. Behind a name may stand what its size may be:
    `seq=1..512` for a range, `seq=64|128|256` for a few sizes; a name right behind another is parted from
    it by a comma.

    Raises:
        RequestError: it does not have that form.
    """
    where = f"--input {text}"
    if fixes_value(text):
        raise RequestError(
            "a value fixes an input of an ONNX file, and the model is none",
            where=where,
            fix="fix it in the function that makes the module, or export the model to ONNX",
        )
    text, open_sizes = _without_bounds(text, where)
    head, _, last = text.rpartition(":")
    dtype = None
    if last in DTYPES and ":" in head:
        dtype, (name, _, sizes) = last, head.rpartition(":")
    else:
        name, sizes = head, last
        nearest = difflib.get_close_matches(last, DTYPES, n=1, cutoff=0.6)
        if ":" in head and nearest:
            raise RequestError(f"{last!r} is not a dtype", where=where, fix=f"did you mean {nearest[0]}?")
        if (
            ":" in head
            and re.fullmatch(r"[\w?]+([x,][\w?]+)*", head.rpartition(":")[2])
            and not _is_shape(last)
        ):
            raise RequestError(
                f"{last!r} is not a dtype", where=where, fix=f"choose from {', '.join(DTYPES)}"
            )
    if not name or not sizes:
        raise RequestError("this is not an input", where=where, fix=f"write {_FORM}")
    shape = _parse_shape(sizes.split(",") if "," in sizes else _split_at_x(sizes), where)
    every_x = sizes.split("x")
    other = None
    if 0 < len(shape) < len(every_x) and all(_is_size(part) for part in every_x):
        other = _parse_shape(every_x, where)
    return InputRequest(name, shape, dtype, other, open_sizes)


_BOUNDS = re.compile(r"(?:(?<=[:,])|(?<=[\d?]x))([A-Za-z_]\w*)=(?:(\d+)\.\.(\d+)|(\d+(?:\|\d+)+))(?=[x,:]|$)")


def _without_bounds(text: str, where: str) -> tuple[str, dict[str, OpenSize]]:
    """The option without what stands behind `=`, and that by the dimension's name."""
    found: dict[str, OpenSize] = {}
    for name, low, high, choices in _BOUNDS.findall(text):
        sizes = sorted({int(size) for size in choices.split("|")} if choices else {int(low), int(high)})
        if sizes[0] < 1 or len(sizes) < 2 or (low and int(low) > int(high)):
            raise RequestError(
                f"{name} has no two sizes to be between",
                where=where,
                fix=f"write {name}=1..512 or {name}=64|128",
            )
        found[name] = OpenSize(sizes[0], sizes[-1], tuple(sizes) if choices else ())
    return _BOUNDS.sub(r"\1", text), found


def open_sizes(texts: Sequence[str]) -> dict[str, OpenSize]:
    """What the open dimensions of all `--input` options may be, by name.

    Raises:
        RequestError: an option does not have the form, or a dimension is bounded twice and differently.
    """
    found: dict[str, OpenSize] = {}
    for text in texts:
        if fixes_value(text):
            continue
        for name, size in parse_input(text).open_sizes.items():
            if found.setdefault(name, size) != size:
                raise RequestError(
                    f"{name} is {size} here and {found[name]} before", where=f"--input {text}", fix="give one"
                )
    return found


def _is_shape(text: str) -> bool:
    return text == "scalar" or re.fullmatch(r"(\d+|\?)([x,](\d+|\?|[A-Za-z_]\w*))*", text) is not None


def _is_size(text: str) -> bool:
    return re.fullmatch(r"0*[1-9]\d*|\?|[A-Za-z_]\w*", text) is not None


def _parse_shape(parts: list[str], where: str) -> tuple[int | str, ...]:
    if parts == ["scalar"]:
        return ()
    for part in parts:
        if not _is_size(part):
            raise RequestError(
                f"{part!r} is not a size",
                where=where,
                fix="give a positive number, a name, or ? to leave it open",
            )
    return tuple(int(part) if part.isdigit() else part for part in parts)


def _split_at_x(text: str) -> list[str]:
    """Split `1xseqx384`: an x parts sizes where one of its sides is a number or `?`."""
    return re.split(r"x(?=\d|\?|$)|(?<=[\d?])x", text)


def parse_inputs(texts: Sequence[str]) -> dict[str, InputRequest]:
    """Read all `--input` options, by name.

    Raises:
        RequestError: one does not have the form, or a name comes twice.
    """
    requests: dict[str, InputRequest] = {}
    for text in texts:
        request = parse_input(text)
        if request.name in requests:
            raise RequestError("the input is given twice", where=f"--input {text}", fix="give it once")
        requests[request.name] = request
    return requests


def apply_requests(
    specs: Sequence[TensorSpec],
    requests: dict[str, InputRequest],
    batch: int | None,
    *,
    fixed: bool,
    where: str,
) -> tuple[TensorSpec, ...]:
    """The inputs with what the user asked for.

    Args:
        specs: what the source takes.
        requests: what the user said.
        batch: size of the first dimension of every input that has one, where asked.
        fixed: whether a size that the source gives is binding (an ONNX file) or only an example
            (a module, which takes what it is fed).
        where: the model, for messages.

    Raises:
        RequestError: a request names no input, or has another rank, size or dtype than the source takes.
    """
    names = [spec.name for spec in specs]
    for name, request in requests.items():
        if name not in names:
            raise no_such_input(name, names, f"--input {request}")
    if batch is not None and batch < 1:
        raise RequestError(
            f"a batch of {batch} is not possible", where=f"--batch {batch}", fix="give 1 or more"
        )
    return tuple(_apply(spec, requests.get(spec.name), batch, fixed, where) for spec in specs)


def _apply(
    spec: TensorSpec, request: InputRequest | None, batch: int | None, fixed: bool, where: str
) -> TensorSpec:
    shape = list(spec.shape)
    if request is not None:
        request = request.of_rank(len(shape))
        told = f"--input {request}"
        if len(request.shape) != len(shape):
            raise RequestError(
                f"input {spec.name!r} has {len(shape)} dimensions, not {len(request.shape)}",
                where=told,
                fix=f"write --input {option(spec.name, shape, spec.dtype)}",
            )
        if request.dtype is not None and request.dtype != spec.dtype:
            raise RequestError(
                f"input {spec.name!r} takes {spec.dtype}, not {request.dtype}",
                where=told,
                fix=f"write --input {option(spec.name, request.shape, spec.dtype)}",
            )
        for axis, (own, asked) in enumerate(zip(shape, request.shape, strict=True)):
            if fixed and isinstance(own, int) and own != asked:
                right = [*request.shape[:axis], own, *request.shape[axis + 1 :]]
                raise RequestError(
                    f"dimension {axis} of input {spec.name!r} is {own} in the file, not {asked}",
                    where=told,
                    fix=f"write --input {option(spec.name, right, spec.dtype)}, "
                    "or export the model with that dimension open",
                )
        shape = [f"{spec.name}_{axis}" if size == "?" else size for axis, size in enumerate(request.shape)]
    if batch is not None and shape:
        if request is not None and isinstance(request.shape[0], int) and request.shape[0] != batch:
            raise RequestError(
                f"--batch {batch} contradicts it", where=f"--input {request}", fix="give only one of both"
            )
        if fixed and isinstance(spec.shape[0], int) and spec.shape[0] != batch:
            raise RequestError(
                f"input {spec.name!r} has the fixed batch {spec.shape[0]}, not {batch}",
                where=where,
                fix="export the model with the batch dimension open, or leave --batch out",
            )
        shape[0] = batch
    return dataclasses.replace(spec, shape=tuple(shape))
