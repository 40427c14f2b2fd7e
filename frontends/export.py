"""From a torch module to an ONNX file that was run and compared: dynamo first, then TorchScript."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgec.core.errors import JobError
from edgec.core.graph import Arrays, TensorSpec
from edgec.core.numerics import GATES, Difference, compare
from edgec.core.progress import Progress
from edgec.frontends.branches import changed, try_widely
from edgec.frontends.quiet import first_line, quiet
from edgec.frontends.reference import OnnxFile
from edgec.frontends.samples import Samples
from edgec.frontends.value_reads import Read, recorded

if TYPE_CHECKING:
    import torch

_logger = logging.getLogger("edgec.frontends")

_EXTERNAL_BYTES = 1_500_000_000
"""Weights from this size on go to a file of their own: a protobuf ends at 2 GB."""

_HIDDEN = (
    "Where a mask hides all of a row the module's answer is not that of its export (torch answers 0 there "
    "and ONNX NaN, or the other way round), so no sample does that: keep such rows out of the engine."
)

WRAPPER = "source"
"""The attribute under which the exported wrapper holds the user's module."""


@dataclasses.dataclass(frozen=True)
class Exported:
    """An exported file that reproduced the module.

    Attributes:
        path: the file, as the exporter wrote it.
        exporter: `dynamo` or `torchscript`.
        reason: why this one; with what those before it failed.
        difference: how far its outputs in ONNX Runtime are from the module's.
        samples: what it was verified on.
        note: what the user must know of it, in sentences; empty where there is nothing.
    """

    path: Path
    exporter: str
    reason: str
    difference: Difference
    samples: Samples
    note: str = ""


@dataclasses.dataclass(frozen=True)
class _Call:
    """What is exported: the wrapped module and one call of it."""

    module: torch.nn.Module
    arguments: tuple[torch.Tensor, ...]
    inputs: Sequence[TensorSpec]
    outputs: Sequence[str]
    external: bool

    @property
    def is_scripted(self) -> bool:
        """Whether the module was compiled by TorchScript, control flow and all."""
        import torch.jit

        return isinstance(getattr(self.module, WRAPPER, None), torch.jit.ScriptModule)

    def record(self, feed: Arrays) -> tuple[Arrays, list[Read]]:
        """The module's outputs on a feed, and what its Python code read of the feed's values."""
        import torch

        tensors = {spec.name: torch.from_numpy(np.array(feed[spec.name])) for spec in self.inputs}
        with without_fast_path(), quiet(), recorded(tensors) as reads:
            results = self.module(*tensors.values())
        found = [tensor.detach().cpu().numpy() for tensor in results]
        return dict(zip(self.outputs, found, strict=True)), reads

    def open_axes(self) -> list[dict[int, str]]:
        return [
            {axis: size for axis, size in enumerate(spec.shape) if isinstance(size, str)}
            for spec in self.inputs
        ]


def export(
    module: torch.nn.Module,
    arguments: tuple[torch.Tensor, ...],
    *,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[str],
    examples: Sequence[Arrays],
    reaching: Callable[[Path], Samples],
    in_float64: Callable[[Arrays], Arrays] | None,
    folder: Path,
    where: str,
    progress: Progress,
) -> Exported:
    """Export with the first exporter whose file reproduces the module in ONNX Runtime.

    The order is dynamo at opset 23, which keeps attention in one node, dynamo at opset 20, whose
    decompositions are older and better tried, and TorchScript at opsets 17 and 20.

    Args:
        module: takes `arguments` and returns a tuple of tensors.
        arguments: one call's inputs.
        inputs: their specs; a named size is an open dimension.
        outputs: the outputs' names.
        examples: feeds that the module takes.
        reaching: for a file that was written, what to verify it on.
        in_float64: runs the module in float64; None where it cannot.
        folder: where to write.
        where: the source, for messages.
        progress: told what is tried.

    Raises:
        JobError: no exporter's file reproduces the module; names the failure of each, or the line of code
            that decides by values where a trace cannot follow it.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in [*module.parameters(), *module.buffers()])
    call = _Call(module, arguments, inputs, outputs, external=size >= _EXTERNAL_BYTES)
    failures: list[str] = []
    for exporter, opset, write in _attempts(call):
        name = f"{exporter} at opset {opset}"
        progress.step(f"exporting with {name}")
        path = folder / f"{exporter}_{opset}" / "model.onnx"
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with without_fast_path(), quiet():
                write(path)
            progress.step(f"checking what {name} wrote")
            samples = reaching(path)
            difference = _verify(path, samples, in_float64)
        except _CaptureError as error:
            _logger.debug("capture failed", exc_info=error)
            failures.append(f"dynamo could not trace the module ({first_line(error)})")
            continue
        except Exception as error:  # exporters raise whatever they trip over
            _logger.debug("%s failed", name, exc_info=error)
            failures.append(f"{name} failed ({first_line(error)})")
            continue
        unlike = ""
        if samples.hidden and not GATES["fp32"].accepts(difference):
            samples = samples.without_hidden()
            difference, unlike = _verify(path, samples, in_float64), _HIDDEN
        if not GATES["fp32"].accepts(difference):
            failures.append(
                f"{name} computes something else (largest difference {difference.max_abs:.3g} "
                f"in output {difference.output!r})"
            )
            continue
        note = unlike
        if exporter == "torchscript" and not call.is_scripted:
            progress.step("looking for decisions that the trace cannot follow")
            trial = try_widely(call.record, OnnxFile(path), inputs, samples.feeds, where)
            note = " ".join(filter(None, [unlike, trial.note() if trial else ""]))
        reason = f"{name} reproduces the module (largest difference {difference.max_abs:.2g})"
        return Exported(
            path, exporter, "; ".join([reason, *dict.fromkeys(failures)]), difference, samples, note
        )
    listed = "; ".join(dict.fromkeys(failures))
    raise JobError(
        f"no exporter turns this module into ONNX: {listed}",
        where=where,
        fix=f"take data-dependent Python control flow{_deciding(call, examples)} and unsupported ops out of "
        "forward, or export an ONNX file yourself and compile that",
    )


def _deciding(call: _Call, examples: Sequence[Arrays]) -> str:
    """The first line where two examples read other values, which no trace can follow; empty for none."""
    if call.is_scripted:
        return ""
    try:
        traced, *others = [call.record(feed)[1] for feed in examples]
    except Exception as error:  # what exporters refuse may refuse to be followed as well
        _logger.debug("cannot follow the module", exc_info=error)
        return ""
    return next((f" (first at {changed(traced, reads)})" for reads in others if reads != traced), "")


class _CaptureError(Exception):
    """torch.export could not trace the module; another opset would not change that."""


def _attempts(call: _Call) -> Iterator[tuple[str, int, Callable[[Path], None]]]:
    program: list[torch.export.ExportedProgram] = []
    captured = True

    def dynamo(opset: int) -> Callable[[Path], None]:
        def write(path: Path) -> None:
            nonlocal captured
            if not program:
                try:
                    program.append(_capture(call))
                except Exception as error:
                    captured = False
                    raise _CaptureError from error
            _dynamo(call, program[0], opset, path)

        return write

    for opset in (23, 20):
        if captured:
            yield "dynamo", opset, dynamo(opset)
    for opset in (17, 20):
        yield "torchscript", opset, functools.partial(_torchscript, call, opset)


def _verify(path: Path, samples: Samples, in_float64: Callable[[Arrays], Arrays] | None) -> Difference:
    file = OnnxFile(path)
    exact = [in_float64(feeds) for feeds in samples.feeds] if in_float64 is not None else []
    return compare(samples.references, [file(feeds) for feeds in samples.feeds], exact)


@contextlib.contextmanager
def without_fast_path() -> Iterator[None]:
    """No gradients, and not the fused path of TransformerEncoder, which no exporter can write.

    Under gradients, attention with a bias that needs them is captured with other strides than its
    decomposition has, and the reshape behind it fails in the exporter.
    """
    import torch

    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def _capture(call: _Call) -> torch.export.ExportedProgram:
    import torch
    import torch.fx.experimental._config as fx_config

    dims: dict[str, Any] = {}
    shapes = tuple(
        {axis: dims.setdefault(name, torch.export.Dim(name, min=1)) for axis, name in axes.items()}
        for axes in call.open_axes()
    )
    # Sizes 0 and 1 are not to be baked in where a dimension is open.
    with fx_config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        program = torch.export.export(
            call.module,
            call.arguments,
            dynamic_shapes=(shapes,) if any(shapes) else None,
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )
    _fold_attentions(program.graph_module)
    return program


def _fold_attentions(graph_module: torch.fx.GraphModule) -> None:
    """Fold the leading dimensions of attention into one: torch translates it for rank 4 only."""
    import torch

    attention = torch.ops.aten.scaled_dot_product_attention.default
    for node in list(graph_module.graph.nodes):
        if node.op == "call_function" and node.target is attention:
            _fold_attention(graph_module.graph, node)
    graph_module.recompile()


def _fold_attention(graph: torch.fx.Graph, node: torch.fx.Node) -> None:
    import torch

    aten = torch.ops.aten
    arguments: list[Any] = list(node.args)
    tensors = [argument.meta["val"] for argument in arguments[:3]]
    ranks = {tensor.dim() for tensor in tensors}
    if ranks == {4} or len(ranks) != 1:
        return
    lead, rank = list(tensors[0].shape[:-2]), ranks.pop()
    static = all(isinstance(size, int) for tensor in tensors for size in tensor.shape)
    if rank < 2 or not static or any(list(tensor.shape[:-2]) != lead for tensor in tensors):
        return
    folded = {2: [1, 1], 3: [*lead, 1]}.get(rank, [math.prod(lead[:-1]), *lead[-1:]])

    def reshape(value: torch.fx.Node, shape: list[int]) -> torch.fx.Node:
        new = graph.call_function(aten.reshape.default, (value, shape))
        new.meta = {key: entry for key, entry in node.meta.items() if key != "val"}
        return new

    mask: Any = arguments[3] if len(arguments) > 3 else node.kwargs.get("attn_mask")
    with graph.inserting_before(node):
        for index, tensor in enumerate(tensors):
            arguments[index] = reshape(arguments[index], folded + list(tensor.shape[-2:]))
        if mask is not None and mask.meta["val"].dim() > (2 if rank <= 3 else 3):
            rows = list(mask.meta["val"].shape[-2:])
            whole = graph.call_function(aten.expand.default, (mask, lead + rows))
            whole.meta = {key: entry for key, entry in node.meta.items() if key != "val"}
            mask = reshape(whole, folded + rows)
    readers = list(node.users)
    length, width = tensors[0].shape[-2], tensors[2].shape[-1]
    with graph.inserting_after(node):
        out = reshape(node, [*lead, length, width])
    for reader in readers:
        reader.replace_input_with(node, out)
    if len(arguments) > 3:
        arguments[3] = mask
    elif mask is not None:
        node.update_kwarg("attn_mask", mask)
    node.args = tuple(arguments)


def _dynamo(call: _Call, program: torch.export.ExportedProgram, opset: int, path: Path) -> None:
    import torch

    torch.onnx.export(
        program,
        (),
        str(path),
        input_names=[spec.name for spec in call.inputs],
        output_names=list(call.outputs),
        opset_version=opset,
        dynamo=True,
        external_data=call.external,
        verbose=False,
    )


def _torchscript(call: _Call, opset: int, path: Path) -> None:
    import torch
    import torch.jit

    # A scripted module cannot be traced inside another; it is exported as it is.
    source = getattr(call.module, WRAPPER, None)
    module = source if isinstance(source, torch.jit.ScriptModule) else call.module
    axes = {spec.name: open_ for spec, open_ in zip(call.inputs, call.open_axes(), strict=True) if open_}
    torch.onnx.export(
        module,
        call.arguments,
        str(path),
        input_names=[spec.name for spec in call.inputs],
        output_names=list(call.outputs),
        opset_version=opset,
        dynamo=False,
        dynamic_axes=axes or None,
    )
