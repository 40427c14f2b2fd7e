"""A plan applied to a torch module: the graph is cut and healed, and the module gets what it has now."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from edgec.core.errors import JobError, RequestError
from edgec.core.evaluation import Evaluator
from edgec.core.graph import Arrays, Graph
from edgec.core.numerics import GATES, compare
from edgec.core.progress import Progress, Silent
from edgec.frontends.calling import bind
from edgec.frontends.quiet import first_line
from edgec.frontends.torch import from_module
from edgec.passes.manager import Pipeline
from edgec.passes.pipeline import default_pipeline
from edgec.passes.precision.judge import evaluable
from edgec.passes.slim.heal import Slimmer
from edgec.passes.slim.plan import SlimPlan
from edgec.passes.slim.units import Unit

if TYPE_CHECKING:
    import torch

_logger = logging.getLogger("edgec.slim")

FOLDS = (
    *("fuse.stacked_sum", "fuse.conv_batchnorm", "fuse.conv_branches", "fuse.matmul_add"),
    "canonicalize.sink_slice",
)
"""Passes that compute constants from several tensors, or split them: a graph to write back from has none."""

WRITTEN = ("mlp", "heads", "channels", "attention", "mlp_block", "conv_block")
"""Kinds of units that a module can lose."""


def slimmed(
    module: torch.nn.Module,
    example_inputs: object,
    plan: str | SlimPlan,
    calibration: object,
    *,
    progress: Progress | None = None,
) -> torch.nn.Module:
    """A copy of a module that is cut and healed by a plan, to train further or to compile.

    The module's graph is cut and healed by `Slimmer`. Every constant of that graph is one of the module's own
    tensors, transposed or some rows of it; what it became is written back, with the sizes and numbers of
    heads that go with it. Of a branch that leaves, zeros take the place. Then both run on the examples:
    within the gate of fp32 the module computes what the slimmed graph does.

    Args:
        module: not changed.
        example_inputs: a tensor, a tuple of them in the order of `forward`, or a dict by parameter name.
        plan: `mlp=0.5+heads=0.75`, units and counts as a report's frontier names them, or a `SlimPlan`.
        calibration: inputs as the module will meet them, some hundred: like `example_inputs` with more rows
            along the first axis, or a list of such.
        progress: told about the long steps.

    Returns:
        the slimmed module, in evaluation mode and on the device of the first parameter.

    Raises:
        RequestError: the plan is none for this module, or there is no calibration data.
        JobError: the module cannot be written back; names the layer and says why.
    """
    progress = progress or Silent()
    where = type(module).__name__
    student = copy.deepcopy(module).cpu().float()
    graph = from_module(student, example_inputs, spec=where, name=where.lower(), progress=progress)
    names = [name for name in default_pipeline().names if name not in FOLDS]
    Pipeline.named(names).run(graph.model)
    feeds = _feeds(student, example_inputs, calibration, where, {spec.name for spec in graph.inputs})
    slimmer = Slimmer(dataclasses.replace(graph, calibration=tuple(feeds)), progress)
    asked = SlimPlan.parse(plan, slimmer.units) if isinstance(plan, str) else plan
    asked.check(slimmer.units)
    cut = [unit for unit in slimmer.units if asked.kept.get(unit.name, unit.size) < unit.size]
    _check_kinds(cut, where)
    slim, _ = slimmer.apply(asked)
    progress.step("writing the weights back")
    _write(student, graph, slim.model, cut, asked, where)
    progress.step("comparing the module with its graph")
    _compare(student, graph, slim, cut, where)
    first = next(module.parameters(), None)
    return student if first is None else student.to(first.device)


def _feeds(
    module: torch.nn.Module, examples: object, calibration: object, where: str, read: set[str]
) -> list[Arrays]:
    """Calibration data by input name, in pieces of the examples' batch."""
    own = bind(module, examples, where).tensors
    batch = min((tensor.shape[0] for tensor in own.values() if tensor.dim()), default=1)
    feeds = []
    for part in calibration if isinstance(calibration, list) else [calibration]:
        if part is None:
            continue
        tensors = bind(module, part, where).tensors
        if missing := sorted(read - tensors.keys()):
            raise RequestError(
                f"the calibration data has no input {missing[0]!r}",
                where=where,
                fix="give it as example_inputs are given",
            )
        # Inputs without a batch of their own, such as one mask for all, are whole in every piece.
        split = {key for key in read if own[key].dim() and own[key].shape[0] == batch}
        count = min((len(tensors[key]) for key in split), default=batch)
        for start in range(0, count - batch + 1, batch):
            piece = {
                key: tensors[key][start : start + batch] if key in split else tensors[key] for key in read
            }
            feeds.append({key: tensor.float().numpy() if tensor.is_floating_point() else tensor.numpy()
                          for key, tensor in piece.items()})  # fmt: skip
            for key, tensor in piece.items():
                if tensor.shape != own[key].shape:
                    raise RequestError(
                        f"calibration input {key!r} has rows of shape {tuple(tensor.shape[1:])}, the example "
                        f"{tuple(own[key].shape[1:])}",
                        where=where,
                        fix="give calibration data of the examples' sizes",
                    )
    if not feeds:
        raise RequestError(
            "slimming needs inputs as the network will meet them, and there are none",
            where=where,
            fix=f"give some hundred as calibration, at least {batch} in one tensor",
        )
    return feeds


def _check_kinds(cut: Sequence[Unit], where: str) -> None:
    for unit in cut:
        if unit.kind not in WRITTEN:
            raise JobError(
                f"{unit.name} cannot be cut in a module: its class has no such {unit.kind} to change",
                where=where,
                fix=f"plan units of the kinds {', '.join(WRITTEN)}, or slim the graph with edgec compile",
            )


def _write(
    student: torch.nn.Module, graph: Graph, slim: ir.Model, cut: Sequence[Unit], plan: SlimPlan, where: str
) -> None:
    from edgec.slim.origins import new_tensors, owners_of
    from edgec.slim.surgery import leave_out, set_heads, set_tensors

    tensors = {
        name: tensor.detach().numpy()
        for name, tensor in [*student.named_parameters(), *student.named_buffers()]
    }
    wholes = [unit for unit in cut if unit.branches]
    owners = {unit.name: owners_of(graph.model, unit, tensors) for unit in wholes}
    returned = _branches(student, graph) if wholes else {}
    set_tensors(student, new_tensors(graph.model, slim, tensors, where))
    gone = [unit.layer for unit in wholes]
    for unit in wholes:
        leave_out(student, graph.model, unit, returned, owners[unit.name])
    for unit in cut:
        if unit.kind == "heads" and unit.layer not in gone:
            set_heads(student, unit, plan.kept[unit.name])


def _branches(module: torch.nn.Module, graph: Graph) -> dict[str, int]:
    """The layers that map their first input to its own shape, and how many values each returns."""
    import torch

    found: dict[str, int] = {}

    def keeper(name: str) -> Callable[..., None]:
        def look(_layer: object, inputs: tuple[Any, ...], named: Mapping[str, Any], output: object) -> None:
            data = inputs[0] if inputs else next(iter(named.values()), None)
            first = output[0] if isinstance(output, tuple) and output else output
            if (
                isinstance(data, torch.Tensor)
                and isinstance(first, torch.Tensor)
                and data.shape == first.shape
            ):
                found[name] = len(output) if isinstance(output, tuple) else 0

        return look

    hooks = [
        layer.register_forward_hook(keeper(name), with_kwargs=True)
        for name, layer in module.named_modules()
        if name
    ]
    try:
        _run(graph, graph.examples[0])
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _run(graph: Graph, feeds: Arrays) -> Arrays:
    assert graph.run_source is not None
    return graph.run_source(feeds)


def _compare(student: torch.nn.Module, graph: Graph, slim: Graph, cut: Sequence[Unit], where: str) -> None:
    """Make sure that the module, which is the graph's source, computes what the slimmed graph does.

    Raises:
        JobError: it fails, or computes something else.
    """
    with Evaluator(evaluable(slim.model), optimized=True) as evaluator:
        expected = [evaluator.run(feeds) for feeds in graph.examples]
    with _last_layer(student) as last:
        try:
            found = [_run(graph, feeds) for feeds in graph.examples]
        except Exception as error:  # whatever the module raises
            _logger.debug("the slimmed module fails", exc_info=error)
            layer = last[-1] if last else ""
            kind = type(student.get_submodule(layer)).__name__
            units = [
                unit.name for unit in cut if layer.startswith(unit.layer) or unit.layer.startswith(layer)
            ]
            raise JobError(
                f"layer {layer or 'the module itself'} ({kind}) cannot run with what it has now, its forward "
                f"counts on the old sizes: {first_line(error)}",
                where=where,
                fix=f"leave {', '.join(units) or 'it'} out of the plan, or let forward take sizes from its "
                "weights (-1 in reshapes)",
            ) from error
    difference = compare(expected, found)
    if not GATES["fp32"].accepts(difference):
        raise JobError(
            f"the slimmed module is not what its graph computes: output {difference.output!r} is "
            f"{difference.scaled:.2g} of its spread away (allowed {GATES['fp32'].scaled:g}), so a forward "
            f"among {', '.join(unit.layer for unit in cut)} counts on the old sizes",
            where=where,
            fix="try the units one by one, and leave out what does not go",
        )


@contextlib.contextmanager
def _last_layer(module: torch.nn.Module) -> Iterator[list[str]]:
    """Within it, the layers that a call is in, outermost first; where it fails, the last is where."""
    stack: list[str] = []

    def entering(name: str) -> Callable[..., None]:
        return lambda *_: stack.append(name)

    def leaving(*_: object) -> None:
        stack.pop()

    hooks = []
    for name, layer in module.named_modules():
        hooks += [layer.register_forward_pre_hook(entering(name)), layer.register_forward_hook(leaving)]
    try:
        yield stack
    finally:
        for hook in hooks:
            hook.remove()
