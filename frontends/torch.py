"""From a torch module to a graph: drawn inputs, the module's own outputs, a verified export."""

from __future__ import annotations

import dataclasses
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from edgec.core.bundle import read_arrays
from edgec.core.dialect import ONNX_OPSET
from edgec.core.errors import EdgecError, JobError, RequestError
from edgec.core.graph import Arrays, ExactSource, Graph, Semantics, Source, TensorSpec
from edgec.core.numerics import GATES, compare
from edgec.core.progress import Progress, Silent
from edgec.frontends.calling import Binding, bind, named_tensors
from edgec.frontends.covering import covering
from edgec.frontends.example_file import read_example
from edgec.frontends.examples import Drawing, numberless
from edgec.frontends.export import WRAPPER, export, without_fast_path
from edgec.frontends.fingerprint import fingerprint
from edgec.frontends.finish import inline, input_specs, set_input_shapes, set_output_shapes, to_dialect
from edgec.frontends.inputs import apply_requests, open_sizes, parse_inputs
from edgec.frontends.module_samples import drawn_like, fits, near_own, reaching_far
from edgec.frontends.quiet import first_line, quiet
from edgec.frontends.ranges import ranges_of, understood
from edgec.frontends.reference import check_conversion
from edgec.frontends.samples import Samples, run_real, taken

if TYPE_CHECKING:
    import torch


_logger = logging.getLogger("edgec.frontends")


class ModuleSource:
    """Runs the user's module on numpy feeds of fp32, without gradients.

    Attributes:
        module: the module.
        is_double: whether it computes in float64, on the same feeds; its outputs are rounded to fp32.
        where: the source, for messages.
        folder: holds the exported file; removed with the last graph that can run the source.
    """

    def __init__(self, module: torch.nn.Module, binding: Binding, where: str) -> None:
        self.module = module
        self.is_double = _is_double(module)
        self.folder = tempfile.TemporaryDirectory(prefix="edgec-")
        self._binding = binding
        self._called_in_float64: Callable[..., Any] | None = None
        self.where = where

    def __call__(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        """The module's outputs by name."""
        tensors = {
            name: _tensor(feeds[name]) if name in feeds else tensor
            for name, tensor in self._binding.tensors.items()
        }
        if self.is_double:
            tensors = {
                name: tensor.double() if tensor.is_floating_point() else tensor
                for name, tensor in tensors.items()
            }
        with without_fast_path(), quiet():
            named = self.named_outputs(self.module, tensors)
        if self.is_double:
            named = {name: _as_fp32(tensor, True) for name, tensor in named.items()}
        # Copies: a module may return a view of its own state, or one tensor twice.
        return {name: tensor.detach().cpu().numpy().copy() for name, tensor in named.items()}

    def in_float64(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        """The module's outputs in float64 on the same feeds, by name.

        Raises:
            Exception: whatever the module raises where it cannot compute in float64.
        """
        from edgec.frontends.in_float64 import call_in_float64

        if self._called_in_float64 is None:
            self._called_in_float64 = call_in_float64(self.module)
        tensors = {
            name: _tensor(feeds[name]) if name in feeds else tensor
            for name, tensor in self._binding.tensors.items()
        }
        with without_fast_path(), quiet():
            named = self.named_outputs(self._called_in_float64, tensors)
        return {name: tensor.detach().cpu().numpy().copy() for name, tensor in named.items()}

    def named_outputs(
        self, module: Callable[..., Any], tensors: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """The module's outputs as tensors; a name that an input has gets `_out` behind it."""
        named: dict[str, torch.Tensor] = {}
        for name, tensor in named_tensors(self._binding.call(module, tensors), self.where):
            while name in self._binding.tensors or name in named:
                name = f"{name}_out"
            named[name] = tensor
        if not named:
            raise RequestError("the module returns no tensor", where=self.where, fix="let forward return one")
        return named


def from_module(
    module: torch.nn.Module,
    example_inputs: object,
    *,
    spec: str,
    name: str,
    kind: str = "torch",
    input_names: Sequence[str] = (),
    semantics: Mapping[str, Semantics] | None = None,
    drawings: Mapping[str, Drawing] | None = None,
    examples: Sequence[Arrays] | None = None,
    example: str | Path | None = None,
    preprocessing: Mapping[str, dict[str, object]] | None = None,
    labels: Sequence[str] = (),
    notes: Sequence[str] = (),
    weights: str = "from the module",
    inputs: Sequence[str] = (),
    batch: int | None = None,
    seed: int = 0,
    samples: int = 3,
    progress: Progress | None = None,
) -> Graph:
    """Trace a module into a graph.

    The module's own outputs on the examples become the references, and the exported file must
    reproduce them in ONNX Runtime.

    Args:
        module: the module, in evaluation mode.
        example_inputs: a tensor, a tuple of them in the order of `forward`, or a dict by parameter name.
        spec: what the user named.
        name: short name for folders.
        kind: the frontend, as in `Source.kind`.
        input_names: names of a tuple's entries, instead of the parameters of `forward`.
        semantics: what inputs mean, by name.
        drawings: how to draw inputs, by name; from the example inputs' own values where not given.
        examples: real feeds instead of drawn ones; drawn ends come behind.
        example: an npz file of real feeds: the module is traced on its first, and drawn ends come behind.
        preprocessing: how raw data becomes an input, by input name.
        labels: class names.
        notes: what the user should read, one sentence each.
        weights: whose weights these are, in words.
        inputs: `--input` options.
        batch: size of the first dimension of every input.
        seed: of the drawn examples.
        samples: how many examples to draw.
        progress: told about long steps.

    Raises:
        RequestError: the inputs do not fit the module, its outputs change from run to run, or it
            fails on them.
        JobError: no exporter reproduces the module.
    """
    progress = progress or Silent()
    said = list(notes)
    module = module.cpu()
    double = _is_double(module)
    _to_fp32(module, said)
    binding = bind(module, example_inputs, spec, input_names)
    binding = dataclasses.replace(
        binding, tensors={key: _as_fp32(tensor, double) for key, tensor in binding.tensors.items()}
    )
    asked = _specs(binding, semantics or {}, inputs, batch, spec)
    source = ModuleSource(module, binding, spec)

    progress.step("running the module")
    own = {key: tensor.numpy() for key, tensor in binding.tensors.items()}
    limits = open_sizes(inputs)
    if example is not None:
        drawn = read_example(example, asked)
    elif examples is not None:
        drawn = list(examples)
    else:
        drawn = near_own(asked, own, drawings or {}, samples, seed, limits)
    _settle(source, drawn[0], spec, said)
    if example is not None:
        near = run_real(source, drawn, asked, example)
    else:
        near = _run(source, drawn, own if fits(asked, own) else None, asked, spec, said)
    feeds, references = near.feeds, near.references
    if source.is_double:
        said.append(_narrow(source, feeds, references))
        progress.note(said[-1])
        run_exact = None
    else:
        progress.step("running the module in float64")
        run_exact = _in_float64(source, feeds[0], said)

    def reaching(path: Path) -> Samples:
        """Samples that reach as far as the exported file says that the inputs do."""
        written = ir.load(path)
        inline(written)
        known = {**ranges_of(written, asked), **(drawings or {})}
        real = spec if examples is not None else None
        return reaching_far(source, near, own, asked, known, example or real, samples, seed, limits)

    outputs = list(references[0])
    exported = export(
        _wrapped(source, [item.name for item in asked]),
        tuple(_tensor(feeds[0][item.name]) for item in asked),
        inputs=asked,
        outputs=outputs,
        examples=feeds,
        reaching=reaching,
        in_float64=run_exact,
        folder=Path(source.folder.name),
        where=spec,
        progress=progress,
    )
    if exported.note:
        said.append(exported.note)
        progress.note(exported.note)
    feeds, references = exported.samples.feeds, exported.samples.references
    model = ir.load(exported.path)
    opset = model.opset_imports.get("", ONNX_OPSET)
    to_dialect(model, where=spec, modules={key for key, _ in module.named_modules()}, wrapper=WRAPPER)
    read = {value.name for value in model.graph.inputs}
    unread = [item.name for item in asked if item.name not in read]
    if unread:
        said.append(f"The module does not read {', '.join(unread)}; the graph has no such input.")
    kept = [item for item in asked if item.name in read]
    known = {**ranges_of(model, kept), **(drawings or {})}
    kept = list(understood(kept, known))
    set_input_shapes(model, kept)
    set_output_shapes(model, references)
    feeds = [{key: value for key, value in feed.items() if key in read} for feed in feeds]
    unchecked = check_conversion(
        model, opset, feeds, references, folder=exported.path.parent, where=spec, run=source
    )
    if unchecked:
        said.append(unchecked)
    graph = Graph(
        model=model,
        source=Source(
            spec=spec,
            kind=kind,
            name=name,
            sha256=fingerprint(model),
            exporter=exported.exporter,
            exporter_reason=exported.reason,
            weights=weights,
            notes=tuple(said),
        ),
        inputs=input_specs(model, {item.name: item.semantics for item in kept}),
        examples=feeds,
        references=references,
        run_source=source,
        run_exact=run_exact,
        drawn=tuple(item for item in exported.samples.drawn if item.name in read),
        exported=str(exported.path),
        preprocessing=dict(preprocessing or {}),
        labels=tuple(labels),
    )

    def ordinary(seed: int) -> list[Arrays]:
        if examples is not None:
            return []
        feeds = drawn_like(asked, own, known, 1, seed, limits)
        return [{name: array for name, array in feed.items() if name in read} for feed in feeds]

    return covering(graph, ordinary, seed)


def tensors_of(path: str | Path) -> dict[str, torch.Tensor]:
    """What an npz file holds, as a call by name.

    Raises:
        RequestError: there is no such file, or it is none.
    """
    return {name: _tensor(array) for name, array in read_arrays(Path(path)).items()}


def _tensor(array: np.ndarray) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.array(array))


def _to_fp32(module: torch.nn.Module, notes: list[str]) -> None:
    import torch

    kinds = {tensor.dtype for tensor in [*module.parameters(), *module.buffers()]}
    if kinds & {torch.float16, torch.bfloat16}:
        module.float()
        notes.append("The module's half-precision weights were widened to fp32, which the references use.")


def _is_double(module: torch.nn.Module) -> bool:
    """Whether a module computes in float64: all of its parameters are, not only a table that it casts."""
    import torch

    kinds = {parameter.dtype for parameter in module.parameters() if parameter.is_floating_point()}
    return kinds == {torch.float64}


def _as_fp32(tensor: torch.Tensor, double: bool) -> torch.Tensor:
    """The tensor in fp32 where it is of half precision, or of double and that is asked for too."""
    import torch

    kinds = (torch.float16, torch.bfloat16, *([torch.float64] if double else []))
    return tensor.float() if tensor.dtype in kinds else tensor


def _narrow(source: ModuleSource, feeds: Sequence[Arrays], references: Sequence[Arrays]) -> str:
    """Round a module of float64 to fp32, which engines have; a note on what that does to its outputs.

    Raises:
        JobError: it needs float64: rounding moves its outputs beyond the fp32 gate.
    """
    source.module.float()
    source.is_double = False
    difference = compare(references, [source(feed) for feed in feeds])
    if not GATES["fp32"].accepts(difference):
        raise JobError(
            f"the module computes in float64, and in float32 its output {difference.output!r} is "
            f"{difference.scaled:.2g} of its spread away (allowed {GATES['fp32'].scaled:g})",
            where=source.where,
            fix="call module.float() and check what that computes",
        )
    return (
        "The module's float64 weights were rounded to fp32. The references are its own outputs in float64; "
        f"fp32 is {difference.scaled:.1e} of their spread away."
    )


def _specs(
    binding: Binding, semantics: Mapping[str, Semantics], inputs: Sequence[str], batch: int | None, where: str
) -> tuple[TensorSpec, ...]:
    own = tuple(
        TensorSpec(
            name,
            tuple(tensor.shape),
            tensor.numpy().dtype.name,
            semantics.get(name) or _meaning(name, tensor),
        )
        for name, tensor in binding.tensors.items()
    )
    return apply_requests(own, parse_inputs(inputs), batch, fixed=False, where=where)


def _meaning(name: str, tensor: torch.Tensor) -> Semantics:
    """What an input means, as far as its name and dtype tell."""
    if "mask" in name and not tensor.is_floating_point():
        return "mask"
    if name.endswith(("_ids", "tokens")) and not tensor.is_floating_point() and tensor.dim() > 1:
        return "tokens"
    return "unknown"


def _settle(source: ModuleSource, feed: Arrays, where: str, notes: list[str]) -> None:
    """Put the module into evaluation mode, and make sure that it computes the same twice.

    Raises:
        RequestError: it fails, or its outputs change from run to run.
    """
    module = source.module
    if any(layer.training for layer in module.modules()):
        module.eval()
        notes.append("The module was in training mode; it is compiled in evaluation mode.")
    try:
        first, second = source(feed), source(feed)
    except EdgecError:
        raise
    except Exception as error:
        raise RequestError(
            f"the module fails on inputs {_shapes(feed)}: {first_line(error)}",
            where=where,
            fix="check the example inputs, or give the shape it takes with --input",
        ) from error
    if not _same(first, second):
        raise RequestError(
            "the module's outputs change from run to run, in evaluation mode too",
            where=where,
            fix="take the randomness out of forward, such as torch.rand or functional dropout without "
            "training=self.training",
        )


def _same(first: Arrays, second: Arrays) -> bool:
    return first.keys() == second.keys() and all(
        first[name].shape == second[name].shape
        and np.allclose(first[name], second[name], rtol=1e-5, atol=1e-6, equal_nan=True)
        for name in first
    )


def _shapes(feed: Mapping[str, np.ndarray]) -> str:
    return ", ".join(f"{name} {'x'.join(map(str, array.shape)) or 'scalar'}" for name, array in feed.items())


def _run(
    source: ModuleSource,
    drawn: list[Arrays],
    own: Mapping[str, np.ndarray] | None,
    specs: Sequence[TensorSpec],
    where: str,
    notes: list[str],
) -> Samples:
    """The feeds that the module takes, and its outputs on them."""
    feeds, references, refused = [], [], ""
    for feed in drawn:
        try:
            references.append(source(feed))
            feeds.append(feed)
        except EdgecError:
            raise
        except Exception as error:
            refused = refused or first_line(error)
    if refused and own is not None and not feeds:
        feeds, references = [dict(own)], [source(own)]
    if refused:
        notes.append(
            f"Verified on {len(feeds)} of {len(drawn)} inputs: the module failed on others ({refused})."
        )
    if broken := numberless(references):
        raise RequestError(
            f"the module computes NaN, or nothing finite, in output {broken!r} on drawn inputs",
            where=where,
            fix="look for NaN weights or a division by zero in the module",
        )
    if not feeds:
        raise JobError(f"the module failed on every drawn input ({refused})", where=where)
    return Samples(feeds, references, taken(specs, where))


def _in_float64(source: ModuleSource, feed: Arrays, notes: list[str]) -> ExactSource | None:
    """Runs the module in float64; None where it cannot compute in that."""
    try:
        return ExactSource(source.in_float64, feed)
    except Exception as error:  # whatever the module raises
        _logger.debug("the module does not run in float64", exc_info=error)
        notes.append(
            f"The module does not run in float64 ({first_line(error)}), so its own rounding is not known."
        )
        return None


def _wrapped(source: ModuleSource, names: Sequence[str]) -> torch.nn.Module:
    """A module that takes tensors by place and returns a tuple of tensors."""
    import torch

    class Positional(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            setattr(self, WRAPPER, source.module)

        def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            # Through the attribute: a tracer follows only what is a submodule of this one.
            module = getattr(self, WRAPPER)
            return tuple(source.named_outputs(module, dict(zip(names, tensors, strict=True))).values())

    wrapped = Positional()
    wrapped.train(source.module.training)
    return wrapped
