"""What is asked of a compile, with every word of it checked before anything slow begins."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgec import amounts
from edgec.core import bundle as bundles
from edgec.core.errors import RequestError
from edgec.passes.manager import Pipeline
from edgec.search.axes.table import check_words
from edgec.search.deadline import SECONDS
from edgec.targets.base import LeavesOut, Target

PRECISIONS = ("auto", "fp32", "fp16", "bf16", "int8", "int4")


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked of a compile, apart from the model.

    Attributes:
        target: the target.
        target_spec: how the user named it.
        output: the bundle's folder; None for the default name.
        precision: one of `PRECISIONS`.
        latency: the largest median latency to accept, in milliseconds.
        max_drop: the largest drop of the evaluation's score to accept, as a fraction.
        pipeline: the passes.
        pass_edits: the edits that made the pipeline from the default one.
        seed: seed of everything that is drawn.
        takes_away: by axis of the search, what its option says; without those that are off.
        search_seconds: how long all searches together may take.
    """

    target: Target
    target_spec: str
    output: Path | None
    precision: str
    latency: float | None
    max_drop: float | None
    pipeline: Pipeline
    pass_edits: tuple[str, ...]
    seed: int
    takes_away: Mapping[str, str] = dataclasses.field(default_factory=dict)
    search_seconds: float = SECONDS

    @property
    def is_lossy(self) -> bool:
        """Whether it allows a step that changes what the network computes, within a budget."""
        return self.max_drop is not None or self.precision in ("int8", "int4") or bool(self.takes_away)

    @property
    def is_gated(self) -> bool:
        """Whether a loss on held-out data refuses the result.

        A schedule that the user names without a drop is theirs to judge by the report.
        """
        return self.max_drop is not None or self.precision in ("int8", "int4")

    @classmethod
    def checked(
        cls,
        target: str,
        output: str | Path | None = None,
        precision: str = "auto",
        latency: float | str | None = None,
        max_drop: float | str | None = None,
        passes: Sequence[str] = (),
        seed: int = 0,
        tokens: str = "off",
        slim: str = "off",
        search_time: float | str | None = None,
    ) -> Request:
        """The request, with every word of it checked before anything slow begins.

        Raises:
            RequestError: there is no such target, precision, pass, seed or amount, or the output cannot be
                written.
        """
        from edgec.passes.pipeline import default_pipeline
        from edgec.targets import target_named

        if precision not in PRECISIONS:
            raise RequestError(
                f"no precision is named {precision!r}", fix=f"choose from {', '.join(PRECISIONS)}"
            )
        seed = amounts.whole(seed, "--seed", 0, 2**32 - 1)
        latency = amounts.milliseconds(latency, "--latency")
        max_drop = amounts.share(max_drop, "--max-drop")
        seconds = amounts.seconds(search_time, "--search-time")
        options = {"slim": slim, "tokens": tokens}
        for name, text in {"target": target, **options}.items():
            if not isinstance(text, str):
                raise RequestError(f"--{name} {text!r} is no text", fix="write what the command line takes")
        named = target_named(target)
        if latency is not None and not named.runs_here:
            raise RequestError(
                f"--latency needs measuring, and {named.name} does not run on this machine",
                fix="leave out --latency and measure on the device",
            )
        if output is not None:
            bundles.check_writable(Path(output))
        takes_away = {axis: text for axis, text in options.items() if text != "off"}
        for axis, text in takes_away.items():
            if text == "auto" and not named.runs_here:
                raise RequestError(
                    f"--{axis} auto measures engines, and {named.name} does not run on this machine",
                    fix="name what to take, as --tokens r=8, or what --target x86 finds",
                )
            if text != "auto":
                check_words(axis, text)
        return cls(
            named,
            target,
            None if output is None else Path(output),
            precision,
            latency,
            max_drop,
            default_pipeline().edited([*_left_out(named, passes), *passes]),
            tuple(passes),
            seed,
            takes_away,
            SECONDS if seconds is None else seconds,
        )


def _left_out(target: Target, edits: Sequence[str]) -> list[str]:
    """The edits that take out what the target's engines get wrong; what the user edits is the user's."""
    named = {edit[1:] for edit in edits}
    if not isinstance(target, LeavesOut):
        return []
    return [f"-{name}" for name in target.without_passes if name not in named]
