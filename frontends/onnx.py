"""`file.onnx`: an ONNX file of opset 9 to 23, its weights inside or beside it."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common

from edgec.core.dialect import ONNX_OPSET
from edgec.core.errors import RequestError
from edgec.core.graph import Arrays, Graph, Semantics, Source, TensorSpec
from edgec.core.progress import Progress, Silent
from edgec.frontends.examples import Drawing, draw, numberless
from edgec.frontends.fingerprint import fingerprint
from edgec.frontends.finish import inline, input_specs, set_input_shapes, set_output_shapes, to_dialect
from edgec.frontends.float_width import Run, Widened, foreign_floats
from edgec.frontends.inputs import InputRequest, apply_requests, open_sizes, option, parse_inputs
from edgec.frontends.onnx_checks import check
from edgec.frontends.onnx_file import read
from edgec.frontends.quiet import first_line
from edgec.frontends.reference import OnnxFile, ReferenceFile, check_conversion

_logger = logging.getLogger("edgec.frontends")


def from_onnx(
    path: str,
    *,
    spec: str | None = None,
    name: str | None = None,
    kind: str = "onnx",
    semantics: Mapping[str, Semantics] | None = None,
    drawings: Mapping[str, Drawing] | None = None,
    examples: Sequence[Arrays] | None = None,
    preprocessing: Mapping[str, dict[str, object]] | None = None,
    labels: Sequence[str] = (),
    notes: Sequence[str] = (),
    inputs: Sequence[str] = (),
    batch: int | None = None,
    seed: int = 0,
    samples: int = 3,
    progress: Progress | None = None,
) -> Graph:
    """Load an ONNX file.

    The references are what the untouched file computes in ONNX Runtime without graph optimisation.
    Where the opset was converted, the converted model must compute the same there. A file that computes in
    float16 or float64 is brought to float32 first, as `float_width` says.

    Args:
        path: the file. Weights in external files are mapped, not read, and must lie in its folder.
        spec: what the user named; the path where not given.
        name: short name; the file's stem where not given.
        kind: the frontend, as in `Source.kind`.
        semantics: what inputs mean, by name; guessed from names and shapes where not given.
        drawings: how to draw inputs, by name.
        examples: real feeds instead of drawn ones.
        preprocessing: how raw data becomes an input, by input name.
        labels: class names.
        notes: what the user should read, one sentence each.
        inputs: `--input` options; they must give every open dimension a size or a name.
        batch: size of the open first dimension of every input.
        seed: of the drawn examples.
        samples: how many examples to draw.
        progress: told about long steps.

    Raises:
        RequestError: the file is none that edgec reads, or an option does not fit it.
        JobError: ONNX Runtime computes something else from the converted model.
    """
    progress = progress or Silent()
    file = Path(path)
    progress.step(f"reading {file.name}")
    model = _load(file)
    opset = model.opset_imports.get("", ONNX_OPSET)
    foreign = foreign_floats(model)
    widened = Widened(model, foreign) if foreign is not None else None
    meanings = {**_meanings(model), **(semantics or {})}
    requests = parse_inputs(inputs)
    own = _own_specs(model, meanings, requests, path)
    asked = apply_requests(own, requests, batch, fixed=True, where=path)
    _refuse_open(asked, requests, path)
    ranges = {**_ranges(model), **(drawings or {})}

    progress.step("running the file as it is")
    said = list(notes)

    def drawn(drawings: Mapping[str, Drawing]) -> list[Arrays]:
        feeds = draw(asked, drawings, samples=samples, seed=seed, limits=open_sizes(inputs))
        return feeds if widened is None else widened.feeds(feeds)

    if examples is not None:
        feeds = list(examples) if widened is None else widened.feeds(list(examples))
    else:
        feeds = drawn(ranges)
    run, references = _references(file, feeds, path, widened)
    if examples is None and numberless(references):
        # Of a logarithm or a root, say: the input is a power or a spectrum.
        feeds = drawn(_positive(asked, ranges))
        references = [run(feed) for feed in feeds]
        said.append("Inputs were drawn from 0 to 1: on values of both signs the file computes no numbers.")
    if broken := numberless(references):
        raise RequestError(
            f"the file computes no finite numbers in output {broken!r} on drawn inputs, so nothing can be "
            "compared",
            where=path,
            fix="look for NaN weights, a division by zero, or a logarithm or root of what may be negative",
        )
    if widened is not None:
        references, note = widened.references(feeds, references, path)
        said.append(note)
        progress.note(note)
    set_input_shapes(model, asked)
    to_dialect(model, where=path)
    set_output_shapes(model, references)
    progress.step(f"checking the conversion from opset {opset}")
    unchecked = check_conversion(model, opset, feeds, references, folder=file.absolute().parent, where=path)
    if unchecked:
        said.append(unchecked)
    return Graph(
        model=model,
        source=Source(
            spec=spec or path,
            kind=kind,
            name=name or file.stem,
            sha256=fingerprint(model),
            exporter_reason=f"an ONNX file of opset {opset}",
            notes=tuple(said),
        ),
        inputs=input_specs(model, {item.name: item.semantics for item in asked}),
        examples=feeds,
        references=references,
        run_source=run,
        exported=path if widened is None else str(widened.path),
        preprocessing=dict(preprocessing or {}),
        labels=tuple(labels),
    )


def _load(file: Path) -> ir.Model:
    proto = read(file)
    try:
        model = ir.from_proto(proto)
    except Exception as error:  # onnx-ir raises many kinds on malformed graphs
        _logger.debug("onnx-ir cannot read the file", exc_info=error)
        raise RequestError(
            f"the graph is malformed: {first_line(error)}", where=str(file), fix="export the model again"
        ) from error
    ir.external_data.set_base_dir(model.graph, file.absolute().parent)
    # Initializers that are inputs too may be overridden by a caller; edgec compiles their values in.
    for value in [value for value in model.graph.inputs if value.name in model.graph.initializers]:
        model.graph.inputs.remove(value)
    inline(model)
    check(model, str(file))
    return model


def _own_specs(
    model: ir.Model, meanings: Mapping[str, Semantics], requests: Mapping[str, InputRequest], where: str
) -> tuple[TensorSpec, ...]:
    specs = []
    for value in model.graph.inputs:
        name = value.name or ""
        if not isinstance(value.type, ir.TensorType):
            kind = "a sequence" if isinstance(value.type, ir.SequenceType) else "no tensor"
            raise RequestError(
                f"input {name!r} is {kind}, and edgec takes tensors only",
                where=where,
                fix="export the model with tensor inputs",
            )
        dtype = value.type.dtype
        if dtype == ir.DataType.STRING or dtype.name.startswith(
            ("BFLOAT", "FLOAT8", "FLOAT4", "INT4", "UINT4")
        ):
            raise RequestError(
                f"input {name!r} holds {dtype.name.lower()}, which edgec cannot feed",
                where=where,
                fix="export the model with float32, integer or bool inputs",
            )
        request = requests.get(name)
        if value.shape is None and request is not None:
            value.shape = ir.Shape([f"{name}_{axis}" for axis in range(len(request.shape))])
        if value.shape is None:
            raise RequestError(
                f"input {name!r} has no shape in the file",
                where=where,
                fix=f"add --input {name}:SHAPE:{dtype.numpy().name}, for example "
                f"{option(name, (1, 3, 224, 224), dtype.numpy().name)}",
            )
        shape = tuple(
            size if isinstance(size, int) and size > 0 else (getattr(size, "value", None) or f"{name}_{axis}")
            for axis, size in enumerate(value.shape)
        )
        specs.append(TensorSpec(name, shape, dtype.numpy().name, meanings.get(name, "unknown")))
    return tuple(specs)


def _refuse_open(
    asked: Sequence[TensorSpec],
    requests: Mapping[str, InputRequest],
    where: str,
) -> None:
    """Shapes are fixed unless the user leaves a dimension open in words."""
    open_ = [spec for spec in asked if not spec.is_fixed and spec.name not in requests]
    if not open_:
        return
    hints = []
    for spec in open_:
        sizes = [
            _likely(spec, axis) if isinstance(size, str) else size for axis, size in enumerate(spec.shape)
        ]
        hints.append(f"--input {option(spec.name, sizes, spec.dtype)}")
    axes = ", ".join(
        f"{spec.name!r} ({option(spec.name, spec.shape, None).partition(':')[2]})" for spec in open_
    )
    only_batch = all(all(isinstance(size, int) for size in spec.shape[1:]) for spec in open_)
    raise RequestError(
        f"the shape of input {axes} is open" if len(open_) == 1 else f"the shapes of inputs {axes} are open",
        where=where,
        fix=f"add {'--batch 1, or ' if only_batch else ''}{' '.join(hints)}",
    )


def _likely(spec: TensorSpec, axis: int) -> int:
    """A size to suggest: one sample, an image of 224, a text of 128 tokens."""
    if axis == 0:
        return 1
    if len(spec.shape) == 4:
        return 3 if axis == 1 else 224
    return 128


def _meanings(model: ir.Model) -> dict[str, Semantics]:
    """What inputs mean, as far as names and shapes tell."""
    meanings: dict[str, Semantics] = {}
    for value in model.graph.inputs:
        name, dtype = value.name or "", value.dtype
        if dtype is None or value.shape is None:
            continue
        if "mask" in name.lower() and not dtype.is_floating_point():
            meanings[name] = "mask"
        elif dtype in (ir.DataType.INT64, ir.DataType.INT32) and len(value.shape) == 2 and _tables(value):
            meanings[name] = "tokens"
        elif dtype.is_floating_point() and len(value.shape) == 4 and value.shape[1] in (1, 3, 4):
            meanings[name] = "image"
        elif dtype.is_floating_point():
            meanings[name] = "features"
    return meanings


_MOVES = frozenset({"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Transpose"})
"""Ops that leave the values of their first input as they are."""


def _tables(value: ir.Value) -> list[int]:
    """Rows of the tables that an input looks up, through ops that do not change its values."""
    rows = []
    for use in value.uses():
        node = use.node
        if node.op_type == "Gather" and use.idx == 1 and node.inputs[0] is not None:
            table, axis = node.inputs[0], node.attributes.get("axis")
            if table.shape is not None and len(table.shape) > 0:
                size = table.shape[0 if axis is None else axis.as_int()]
                if isinstance(size, int):
                    rows.append(size)
        elif node.op_type in _MOVES:
            rows.extend(_tables(node.outputs[0]) if use.idx == 0 else [])
    return rows


_NARROW = {
    kind: np.iinfo(kind.numpy())
    for kind in (ir.DataType.UINT8, ir.DataType.INT8, ir.DataType.UINT16, ir.DataType.INT16)
}
"""Types of pixels and sound, which fill their range."""

_INDEX_INPUTS = {
    "Gather": 1,
    "GatherElements": 1,
    "GatherND": 1,
    "OneHot": 0,
    "ScatterElements": 1,
    "ScatterND": 1,
}
"""Where an op takes numbers of places."""


def _ranges(model: ir.Model) -> dict[str, Drawing]:
    ranges = {}
    for value in model.graph.inputs:
        if value.dtype is None or value.dtype.is_floating_point():
            continue
        rows = _tables(value)
        segments = "token_type" in (value.name or "") or "segment" in (value.name or "")
        narrow = _NARROW.get(value.dtype)
        if narrow is not None and not segments and not _is_index(value):
            ranges[value.name or ""] = Drawing(low=int(narrow.min), high=int(narrow.max) + 1)
        else:
            ranges[value.name or ""] = Drawing(high=min(rows) if rows else 4, segments=segments)
    return ranges


def _is_index(value: ir.Value) -> bool:
    """Whether the values say places in another tensor, or sizes, through ops that do not change them."""
    for use in value.uses():
        node = use.node
        if node.op_type in _MOVES:
            # Another input of these says a shape or places.
            if use.idx > 0 or _is_index(node.outputs[0]):
                return True
        elif _INDEX_INPUTS.get(node.op_type) == use.idx:
            return True
    return False


def _positive(specs: Sequence[TensorSpec], ranges: Mapping[str, Drawing]) -> dict[str, Drawing]:
    values = np.linspace(1 / 64, 1, 64, dtype=np.float32)
    floats = [spec.name for spec in specs if np.issubdtype(np.dtype(spec.dtype), np.floating)]
    return {
        **ranges,
        **{name: dataclasses.replace(ranges.get(name, Drawing()), like=values) for name in floats},
    }


def _references(
    file: Path, feeds: Sequence[Arrays], where: str, widened: Widened | None
) -> tuple[Run, list[Arrays]]:
    """The file's own outputs: from ONNX Runtime, or from onnx's evaluator where that lacks an op."""

    def in_fp32(run: Run) -> Run:
        return run if widened is None else widened.own_run(run)

    run = in_fp32(OnnxFile(file))
    try:
        return run, [run(feed) for feed in feeds]
    except Exception as error:
        _logger.debug("ONNX Runtime cannot run the file", exc_info=error)
        if "NOT_IMPLEMENTED" not in str(error):
            raise RequestError(
                f"ONNX Runtime cannot run the file: {first_line(error)}",
                where=where,
                fix="check it with onnx.checker, or the shapes given with --input",
            ) from error
        reference = in_fp32(ReferenceFile(file))
        try:
            return reference, [reference(feed) for feed in feeds]
        except Exception as second:
            raise RequestError(
                f"neither ONNX Runtime ({first_line(error)}) nor onnx's evaluator ({first_line(second)}) "
                "can run the file",
                where=where,
                fix="export the model with ops that ONNX Runtime has",
            ) from second
