"""What a budget that bf16 breaks costs: layers kept in fp32, beside the whole network in bf16 and in fp32.

    python benchmarks/mixed_bf16.py [MODEL …] [--share 0.5]

The budget of each model is a share of what its whole bf16 engine loses on the suite's calibration data, so
that the search has to keep layers. `drop` is on held-out data. Latencies are of alternating blocks.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import sys
import tempfile
from pathlib import Path

from tables import markdown, publish

from edgec.bench.suite_data import data_of
from edgec.compiler import load, to_neutral
from edgec.core.errors import EdgecError
from edgec.core.progress import Silent
from edgec.core.timing import measure
from edgec.judging.budget import Budget, Judge
from edgec.passes.pipeline import default_pipeline
from edgec.search.deadline import Deadline
from edgec.search.engines import search
from edgec.search.held_out import HeldOut
from edgec.targets.base import Candidate
from edgec.targets.x86.cpu import require_bf16
from edgec.targets.x86.forms import DECOMPOSED
from edgec.targets.x86.target import X86

MODELS = ("vit_shapes", "mobilevit_s", "deit_tiny", "swin_tiny")
WHOLE = Candidate("openvino", "bf16", DECOMPOSED)


def row(name: str, share: float) -> list[object]:
    graph = load(f"zoo:{name}")
    neutral = to_neutral(graph, default_pipeline(), Silent()).graph
    # Cosines: a label that flips or not says little on some tens of samples.
    seen, unseen = (
        Judge(graph, dataclasses.replace(data_of(graph, name, part), labels=None))
        for part in ("calibration", "held out")
    )
    target = X86("openvino")
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        engines = {}
        for candidate in (WHOLE.exact, WHOLE):
            folder = Path(scratch) / candidate.precision
            folder.mkdir()
            target.build(target.lower(neutral, candidate), candidate, folder)
            engines[candidate.precision] = target.open(folder)
            stack.callback(engines[candidate.precision].close)
        budget = Budget(share * seen.scores(engines["bf16"].run).drop, seen, unseen)
        home = Path(scratch) / "search"
        home.mkdir()
        choice = search(
            target,
            neutral,
            "auto",
            budget,
            home,
            Silent(),
            Deadline(),
            HeldOut(budget, target, Silent(), is_gated=True),
        )
        engines["mixed"] = target.open(choice.chosen.folder)
        stack.callback(engines["mixed"].close)
        feeds = neutral.examples[0]
        found = measure(
            {key: functools.partial(engine.run, feeds) for key, engine in engines.items()}, blocks=9
        )
        drops = {key: unseen.scores(engine.run).drop for key, engine in engines.items()}
        total = len(target.rounded_layers(Path(scratch) / "bf16"))
    fp32, bf16, mixed = (found[key] for key in ("fp32", "bf16", "mixed"))
    return [
        name, f"{budget.max_drop:.1e}", choice.chosen.candidate.name.removeprefix("openvino "), total,
        f"{fp32.p50:.1f}", f"{bf16.p50:.1f}", f"{mixed.p50:.1f}", f"{mixed.ratio_to(fp32):.3f}",
        f"{mixed.ratio_to(bf16):.3f}", f"{mixed.spread:.0%}", f"{drops['bf16']:.1e}", f"{drops['mixed']:.1e}",
        f"{choice.search['seconds']:.0f}" if choice.search else "",
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--share", type=float, default=0.5)
    asked = parser.parse_args()
    try:
        require_bf16()
    except EdgecError as error:
        sys.exit(str(error))
    headers = [
        "model", "budget", "chosen", "layers that round", "fp32 ms", "bf16 ms", "chosen ms", "to fp32",
        "to bf16", "spread", "drop of bf16", "drop of the chosen", "search s",
    ]  # fmt: skip
    rows = []
    for name in asked.models:
        rows.append(row(name, asked.share))
        print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
    publish("mixed_bf16", "bf16 with layers kept in fp32", markdown(headers, rows))


if __name__ == "__main__":
    main()
