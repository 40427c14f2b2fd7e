"""`file.onnx`: an ONNX file of opset 9 to 23, its weights inside or beside it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common

from edgec.core.dialect import ONNX_OPSET
from edgec.core.errors import RequestError
from edgec.core.float64 import Float64Evaluator
from edgec.core.graph import Arrays, ExactSource, Graph, Semantics, Source, TensorSpec
from edgec.core.progress import Progress, Silent
from edgec.frontends.bounds import check_values
from edgec.frontends.covering import covering
from edgec.frontends.example_file import read_example
from edgec.frontends.examples import Drawing, count, draw, numberless, small_integers, tame
from edgec.frontends.fingerprint import fingerprint
from edgec.frontends.finish import inline, input_specs, set_input_shapes, set_output_shapes, to_dialect
from edgec.frontends.fitting import fitting_sizes
from edgec.frontends.fixed_inputs import FixedFile, parted
from edgec.frontends.float_width import Run, Widened, foreign_floats
from edgec.frontends.inputs import InputRequest, apply_requests, open_sizes, option, parse_inputs
from edgec.frontends.onnx_checks import check
from edgec.frontends.onnx_file import read
from edgec.frontends.quiet import first_line
from edgec.frontends.ranges import is_looked_up, ranges_of, sized_inputs, understood
from edgec.frontends.reference import OnnxFile, ReferenceFile, check_conversion
from edgec.frontends.samples import Samples, drawn_samples, run_far, run_real, taken, with_ends

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
    example: str | Path | None = None,
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
        example: an npz file of real feeds, which come first; drawn ends come behind them.
        preprocessing: how raw data becomes an input, by input name.
        labels: class names.
        notes: what the user should read, one sentence each.
        inputs: `--input` options; they must give every open dimension a size or a name, and may fix inputs
            at a value (`sr=16000`), which the engine then does not take.
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
    folder = file.absolute().parent
    progress.step(f"reading {file.name}")
    model = _load(file)
    opset = model.opset_imports.get("", ONNX_OPSET)
    fixed, inputs = parted(inputs)
    fixed_file = FixedFile(model, fixed, path) if fixed else None
    if fixed_file is not None:
        file = fixed_file.path
    foreign = foreign_floats(model)
    widened = Widened(model, foreign) if foreign is not None else None
    meanings = {**_meanings(model), **(semantics or {})}
    requests = parse_inputs(inputs)
    own = _own_specs(model, meanings, requests, path)
    asked = apply_requests(own, requests, batch, fixed=True, where=path)
    _refuse_open(asked, requests, path)
    check_values(model, asked, path)
    known = {**ranges_of(model, asked), **(drawings or {})}
    asked = understood(asked, known)
    progress.step("running the file as it is")
    said = [*notes, *([fixed_file.note] if fixed_file is not None else [])]

    def rounded(feeds: Sequence[Arrays]) -> list[Arrays]:
        return list(feeds) if widened is None else widened.feeds(feeds)

    def drawn(ranges: Mapping[str, Drawing], most: int, seed: int = seed) -> list[Arrays]:
        return rounded(draw(asked, ranges, samples=most, seed=seed, limits=open_sizes(inputs)))

    ranges = {**small_integers(asked), **known}
    if example is None and examples is None:
        ranges |= fitting_sizes(OnnxFile(file), asked, sized_inputs(model, asked), drawn(ranges, 1)[0])
    far = drawn(ranges, count(asked, ranges, samples))
    if example is not None:
        real = rounded(read_example(example, asked))
        run, _ = _first_run(file, real[0], path, widened)
        made = with_ends(run, run_real(run, real, asked, example), far, asked, known, example)
    elif examples is not None:
        feeds = rounded(examples)
        run, first = _first_run(file, feeds[0], path, widened)
        made = Samples(feeds, [first, *map(run, feeds[1:])], taken(asked, spec or path))
    else:
        near = drawn({name: tame(drawing) for name, drawing in ranges.items()}, samples)
        run = _runner(file, far[0], near[0], path, widened)
        feeds, references = run_far(run, far, near)
        if numberless(references):
            # Of a logarithm or a root, say: the input is a power or a spectrum.
            ranges = _positive(asked, ranges)
            feeds = drawn(ranges, samples)
            references = [run(feed) for feed in feeds]
            said.append(
                "Inputs were drawn from 0 to 1: on values of both signs the file computes no numbers."
            )
        made = drawn_samples(feeds, references, asked, ranges)
    if fixed_file is not None:
        run = fixed_file.kept(run)
    feeds, references = made.feeds, _only_tensors(made.references, path)
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
    unchecked = check_conversion(model, opset, feeds, references, folder=folder, where=path, run=run)
    if unchecked:
        said.append(unchecked)
    progress.step("running the file in float64")
    # A file of float64 is its own exact form; what its weights lose in float32 is not the source's rounding.
    double = widened is not None and widened.dtype == ir.DataType.DOUBLE
    run_exact = None if double else _in_float64(model, feeds[0], said)
    graph = Graph(
        model=model,
        source=Source(
            spec=spec or path,
            kind=kind,
            name=name or Path(path).stem,
            sha256=fingerprint(model),
            exporter_reason=f"an ONNX file of opset {opset}",
            notes=tuple(said),
        ),
        inputs=input_specs(model, {item.name: item.semantics for item in asked}),
        examples=feeds,
        references=references,
        run_source=run,
        run_exact=run_exact,
        drawn=made.drawn,
        exported=(path if fixed_file is None else str(file)) if widened is None else str(widened.path),
        preprocessing=dict(preprocessing or {}),
        labels=tuple(labels),
    )
    return covering(graph, lambda seed: drawn(ranges, 1, seed), seed)


def _in_float64(model: ir.Model, feed: Arrays, notes: list[str]) -> ExactSource | None:
    """Runs the converted model in float64; None where ONNX Runtime cannot."""
    try:
        return ExactSource(Float64Evaluator(model).run, feed)
    except Exception as error:  # ONNX Runtime has no common class for what it refuses
        _logger.debug("the file does not run in float64", exc_info=error)
        notes.append(
            f"The file does not run in float64 ({first_line(error)}), so its own rounding is not known."
        )
        return None


def _load(file: Path) -> ir.Model:
    proto = read(file)
    try:
        model = ir.from_proto(proto)
    except Exception as error:  # onnx-ir raises many kinds on malformed graphs
        _logger.debug("onnx-ir cannot read the file", exc_info=error)
        raise RequestError(
            f"the graph is malformed: {first_line(error)}", where=str(file), fix="export the model again"
        ) from error
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        ir.external_data.set_base_dir(graph, file.absolute().parent)
    # Initializers that are inputs too may be overridden by a caller; edgec compiles their values in.
    for value in [value for value in model.graph.inputs if value.name in model.graph.initializers]:
        model.graph.inputs.remove(value)
    try:
        inline(model)
    except Exception as error:  # onnx-ir raises many kinds on calls that do not fit their functions
        _logger.debug("a function cannot be inlined", exc_info=error)
        raise RequestError(
            f"a function does not fit a call of it: {first_line(error)}",
            where=str(file),
            fix="export the model again; this file is broken",
        ) from error
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
            ("BFLOAT", "FLOAT8", "FLOAT6", "FLOAT4", "INT4", "UINT4", "INT2", "UINT2", "COMPLEX", "UNDEFINED")
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


_IDS = (ir.DataType.INT64, ir.DataType.INT32)


def _meanings(model: ir.Model) -> dict[str, Semantics]:
    """What inputs mean, as far as names and shapes tell."""
    meanings: dict[str, Semantics] = {}
    for value in model.graph.inputs:
        name, dtype = value.name or "", value.dtype
        if dtype is None or value.shape is None:
            continue
        if "mask" in name.lower() and not dtype.is_floating_point():
            meanings[name] = "mask"
        elif dtype in _IDS and len(value.shape) == 2 and is_looked_up(value):
            meanings[name] = "tokens"
        elif dtype.is_floating_point() and len(value.shape) == 4 and value.shape[1] in (1, 3, 4):
            meanings[name] = "image"
        elif dtype.is_floating_point():
            meanings[name] = "features"
    return meanings


def _positive(specs: Sequence[TensorSpec], known: Mapping[str, Drawing]) -> dict[str, Drawing]:
    values = np.linspace(1 / 64, 1, 64, dtype=np.float32)
    floats = [spec.name for spec in specs if np.issubdtype(np.dtype(spec.dtype), np.floating)]
    return {**known, **{name: Drawing(like=values) for name in floats}}


def _runner(file: Path, far: Arrays, near: Arrays, where: str, widened: Widened | None) -> Run:
    """What runs the file, tried on a drawn feed; where it refuses that, on one near the ranges' start."""
    try:
        return _first_run(file, far, where, widened)[0]
    except RequestError:
        return _first_run(file, near, where, widened)[0]


def _first_run(file: Path, feed: Arrays, where: str, widened: Widened | None) -> tuple[Run, Arrays]:
    """What runs the file and its outputs on a feed: ONNX Runtime, or onnx's evaluator for ops it lacks."""

    def in_fp32(run: Run) -> Run:
        return run if widened is None else widened.own_run(run)

    run = in_fp32(OnnxFile(file))
    try:
        return run, _only_tensors([run(feed)], where)[0]
    except RequestError:
        raise
    except Exception as error:
        _logger.debug("ONNX Runtime cannot run the file", exc_info=error)
        if "NOT_IMPLEMENTED" not in str(error):
            raise RequestError(
                f"ONNX Runtime cannot run the file: {first_line(error)}",
                where=where,
                fix="check it with onnx.checker, or the shapes given with --input" + _fixable(feed),
            ) from error
        reference = in_fp32(ReferenceFile(file))
        try:
            return reference, _only_tensors([reference(feed)], where)[0]
        except RequestError:
            raise
        except Exception as second:
            raise RequestError(
                f"neither ONNX Runtime ({first_line(error)}) nor onnx's evaluator ({first_line(second)}) "
                "can run the file",
                where=where,
                fix="export the model with ops that ONNX Runtime has",
            ) from second


def _fixable(feed: Arrays) -> str:
    """What fixing would help: a whole number may choose a way through the file that takes other shapes."""
    whole = [name for name, array in feed.items() if array.size == 1 and array.dtype.kind in "iu"]
    return "".join(f", or fix what chooses its way with --input {name}=VALUE" for name in whole[:1])


def _only_tensors(references: list[Arrays], where: str) -> list[Arrays]:
    """The outputs, once they are seen to be numbers of one rank.

    Raises:
        RequestError: an output is a sequence, a map, text, or of another rank for every sample.
    """
    ranks: dict[str, int] = {}
    for reference in references:
        for name, value in reference.items():
            if not isinstance(value, np.ndarray | np.generic) or value.dtype.kind not in "biufc":
                kind = "text" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
                raise RequestError(
                    f"output {name!r} is {kind}, and edgec compiles networks of numbers",
                    where=where,
                    fix="export the model without what comes after the network",
                )
            if ranks.setdefault(name, value.ndim) != value.ndim:
                raise RequestError(
                    f"output {name!r} has another rank for another input", where=where, fix="fix its shape"
                )
    return references
