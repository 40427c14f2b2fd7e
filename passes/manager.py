"""The pipeline: an ordered list of passes that a user edits by name and that checks its own order."""

from __future__ import annotations

import dataclasses
import difflib
import time
from collections.abc import Callable, Iterable, Sequence

import onnx_ir as ir

from edgec.core.errors import EdgecError, RequestError, UnforeseenError
from edgec.passes.infra import MatchLog, NearMiss, Pass, PassResult, registered


@dataclasses.dataclass(frozen=True)
class PassReport:
    """What one pass did to one graph.

    Attributes:
        name: the pass.
        matched: how many places it changed.
        sites: the source layer of each.
        missed: the places it nearly changed, with reasons.
        nodes_before: nodes in the graph before it ran.
        nodes_after: nodes in the graph after it ran.
        seconds: how long it ran.
    """

    name: str
    matched: int
    sites: tuple[str, ...]
    missed: tuple[NearMiss, ...]
    nodes_before: int
    nodes_after: int
    seconds: float


class Pipeline:
    """An ordered list of passes; the order is checked when it is made.

    Raises:
        RequestError: a pass is there twice, or on the wrong side of one it declares to follow or precede.
    """

    def __init__(self, passes: Iterable[Pass]) -> None:
        self.passes = tuple(passes)
        names = [step.name for step in self.passes]
        for position, step in enumerate(self.passes):
            if step.name in names[:position]:
                raise RequestError(f"pass {step.name} is in the pipeline twice")
            for other in step.after:
                if other in names[position:]:
                    raise RequestError(f"pass {step.name} must come after {other}")
            for other in step.before:
                if other in names[:position]:
                    raise RequestError(f"pass {step.name} must come before {other}")

    @classmethod
    def named(cls, names: Sequence[str]) -> Pipeline:
        """The pipeline of registered passes with these names.

        Raises:
            RequestError: no pass has one of the names; says the nearest.
        """
        return cls(_pass_named(name)() for name in names)

    @property
    def names(self) -> tuple[str, ...]:
        """The passes' names, in order."""
        return tuple(step.name for step in self.passes)

    def edited(self, edits: Sequence[str]) -> Pipeline:
        """This pipeline with `-NAME` taken out and `+NAME` put in.

        A pass that is put in goes to the first place that its own constraints and the others' allow,
        as late as possible.

        Raises:
            RequestError: an edit has no sign, names no pass, or has no allowed place.
        """
        names = list(self.names)
        for edit in edits:
            sign, name = edit[:1], edit[1:]
            if sign not in "+-" or not name:
                raise RequestError(f"--passes {edit!r} has no sign", fix=f"write +{edit} or -{edit}")
            if sign == "+" and name.startswith("tokens.") and name in registered():
                raise RequestError(
                    f"--passes +{name}: taking tokens away changes what the network computes, so it has an "
                    "option of its own, which measures the loss",
                    fix="give --tokens auto, or a schedule as --tokens r=8",
                )
            _pass_named(name)
            if sign == "-":
                names = [other for other in names if other != name]
            elif name not in names:
                names.insert(_place(name, names), name)
        return Pipeline.named(names)

    def run(
        self,
        model: ir.Model,
        *,
        on_pass: Callable[[str], None] | None = None,
        after_pass: Callable[[str, ir.Model], None] | None = None,
    ) -> list[PassReport]:
        """Run every pass on the model, in place.

        Args:
            model: the model.
            on_pass: told each pass's name before it runs.
            after_pass: given each pass's name and the model it left; used by the bisection.

        Raises:
            UnforeseenError: a pass failed; names it and how to leave it out.
        """
        reports = []
        for step in self.passes:
            if on_pass is not None:
                on_pass(step.name)
            before = model.graph.num_nodes()
            start = time.perf_counter()
            try:
                result = step(model)
            except EdgecError:
                raise
            except Exception as error:
                raise UnforeseenError(
                    f"this is a bug of edgec: pass {step.name} failed: {type(error).__name__}: {error}",
                    fix=f"leave it out with --passes -{step.name}",
                ) from error
            seconds = time.perf_counter() - start
            log = result.log if isinstance(result, PassResult) else MatchLog()
            reports.append(
                PassReport(
                    step.name,
                    len(log.matches),
                    tuple(log.matches),
                    tuple(log.misses),
                    before,
                    model.graph.num_nodes(),
                    seconds,
                )
            )
            if after_pass is not None:
                after_pass(step.name, model)
        return reports


def _pass_named(name: str) -> type[Pass]:
    known = registered()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise RequestError(
            f"no pass is named {name!r}",
            fix=f"did you mean {near[0]}?" if near else f"choose from {', '.join(sorted(known))}",
        )
    return known[name]


def _place(name: str, names: list[str]) -> int:
    for position in range(len(names), -1, -1):
        try:
            Pipeline.named([*names[:position], name, *names[position:]])
        except RequestError:
            continue
        return position
    raise RequestError(f"pass {name} has no place among {', '.join(names)}")
