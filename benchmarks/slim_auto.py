"""What `--slim auto` is worth, alone and together with tokens and precision.

    python benchmarks/slim_auto.py [ROW …] [--search-time 300s]

Each row is one compile. The engine that ships is timed beside the same engine of the whole network (in fp32
where it is quantised) and beside the best plain peer (the exporter's graph in ONNX Runtime and OpenVINO, in
fp32, and where it is not fp32 in int8 by the peers' own recipes too), in alternating blocks of one run. The
drop is on held-out data that no search has seen. Rows that were measured are kept in results/slim_auto.json;
a row that is named is measured again. vit_patterns is not solved whole by its model: its rows have pictures
enough to tell a drop of one point, drawn once (some minutes) and kept in the cache folder.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from tables import RESULTS, markdown, publish

from edgec import zoo
from edgec.compiler import compile_graph, load, to_neutral
from edgec.core.errors import EdgecError
from edgec.core.progress import Silent
from edgec.core.timing import measure
from edgec.devices.host import cache_folder
from edgec.judging import budget as budgets
from edgec.passes.pipeline import default_pipeline
from edgec.request import Request
from edgec.search.peers import opened
from edgec.targets.base import Candidate
from edgec.targets.x86.target import X86

KEPT = RESULTS / "slim_auto.json"
PEERS = (("ort", "fp32"), ("openvino", "fp32"), ("ort", "int8"), ("openvino", "int8"))
BLOCKS = 11
HEADERS = [
    "row", "shipped", "slim", "tokens", "ms", "of the same engine whole", "of the best plain peer", "peer",
    "drop, held out", "± of it", "samples", "search s",
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Row:
    """One compile.

    Attributes:
        model: of the zoo.
        options: of `Request.checked`.
        samples: how many are searched on, fitted to and held out; None for what the zoo model brings.
    """

    model: str
    options: dict[str, Any]
    samples: tuple[int, int] | None = None


ENOUGH = (3072, 4096)
"""Pictures to search on, a part of them to fit to, and held out: at 94 % right and one in thirty changed, the
standard error of a drop on 4,096 is 0.3 points."""

ROWS = {
    "vit_shapes slim": Row("vit_shapes", {"slim": "auto", "precision": "fp32", "max_drop": 0.01}),
    "vit_shapes together": Row("vit_shapes", {"slim": "auto", "tokens": "auto", "max_drop": 0.02}),
    "vit_patterns slim": Row("vit_patterns", {"slim": "auto", "precision": "fp32", "max_drop": 0.01}, ENOUGH),
    "vit_patterns together": Row(
        "vit_patterns", {"slim": "auto", "tokens": "auto", "max_drop": 0.02}, ENOUGH
    ),
    "minilm slim": Row("minilm", {"slim": "auto", "precision": "fp32", "max_drop": 0.03}),
}


def measured(row: Row, search_time: str) -> list[object]:
    graph = load(f"zoo:{row.model}")
    target = X86()
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        folder = Path(scratch)
        request = Request.checked("x86", folder / "model.edgec", search_time=search_time, **row.options)
        data = {} if row.samples is None else _kept_data(row.model, row.samples)
        report = compile_graph(graph, request, **data).report()
        engines = {"shipped": target.open(folder / "model.edgec" / "engine")}
        neutral = to_neutral(graph, default_pipeline(), Silent()).graph
        seen = budgets.calibration_data(graph, None, budgets.CALIBRATION_SAMPLES)
        assert seen is not None
        calibrated = dataclasses.replace(graph, calibration=budgets.calibration_feeds(graph, seen))
        chosen = next(entry for entry in report["latency"]["entries"] if entry["role"] == "chosen")
        whole = Candidate(report["engine"], "fp32", report["form"])
        if report["precision"] in ("fp32", "bf16"):
            whole = dataclasses.replace(whole, precision=report["precision"])
        (folder / "whole").mkdir()
        with contextlib.suppress(EdgecError):
            target.build(target.lower(neutral, whole), whole, folder / "whole")
            engines["whole"] = target.open(folder / "whole")
        for engine in engines.values():
            stack.callback(engine.close)
        feeds = graph.examples[0]
        calls = {name: functools.partial(engine.run, feeds) for name, engine in engines.items()}
        for name, precision in PEERS:
            if precision != "fp32" and report["precision"] == "fp32":
                continue
            with contextlib.suppress(EdgecError):
                [peer] = stack.enter_context(opened(calibrated, [name], precision=precision))
                calls[peer.label] = functools.partial(peer.run, feeds)
        found = measure(calls, blocks=BLOCKS)
    shipped = found["shipped"]
    best = min((name for name in found if name not in engines), key=lambda name: found[name].p50)
    sections = {axis: report[axis]["name"] if report[axis] else "" for axis in ("slim", "tokens")}
    searched = (report["slim"] or report["tokens"])["searched_on"]
    accuracy = report["accuracy"]
    return [
        chosen["name"],
        _short(sections["slim"]),
        sections["tokens"],
        f"{shipped.p50:.2f}",
        f"{shipped.ratio_to(found['whole']):.3f}" if "whole" in found else "",
        f"{shipped.ratio_to(found[best]):.3f}",
        best,
        f"{accuracy['drop']:.2%}",
        f"{accuracy['error']:.2%}",
        accuracy["samples"],
        f"{searched['seconds']:.0f}" if searched else "",
    ]


def _kept_data(model: str, samples: tuple[int, int]) -> dict[str, Path]:
    """Calibration and held-out data of a zoo model as files, drawn where they are not there yet."""
    draws = {"calib": zoo.calibration, "eval_data": zoo.evaluation}
    files = {}
    for (name, draw), count in zip(draws.items(), samples, strict=True):
        files[name] = cache_folder() / "benchmarks" / f"{model}-{name}-{count}.npz"
        if not files[name].is_file():
            drawn = draw(model, count=count)
            assert drawn is not None
            files[name].parent.mkdir(parents=True, exist_ok=True)
            np.savez(files[name].with_suffix(".part.npz"), **drawn.inputs, labels=drawn.labels)
            files[name].with_suffix(".part.npz").replace(files[name])
    return files


def _short(name: str) -> str:
    """A plan's text by kinds: how many members of all that it names stay."""
    kinds: dict[str, list[int]] = {}
    for part in name.split("+"):
        unit, _, kept = part.rpartition("=")
        if unit:
            kinds.setdefault(unit.split(":")[0], []).append(int(kept))
    return ", ".join(f"{kind} {sum(kept)} in {len(kept)}" for kind, kept in kinds.items()) or name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; those missing else")
    parser.add_argument("--search-time", default="300s")
    asked = parser.parse_args()
    kept: dict[str, list[object]] = json.loads(KEPT.read_text()) if KEPT.is_file() else {}
    for name in asked.rows or [name for name in ROWS if name not in kept]:
        try:
            kept[name] = [name, *measured(ROWS[name], asked.search_time)]
        except EdgecError as error:
            kept[name] = [name, f"refused: {error}", *[""] * (len(HEADERS) - 2)]
        print(*kept[name], sep=" | ", file=sys.stderr, flush=True)
        KEPT.write_text(json.dumps(kept, indent=1) + "\n")
        rows = [kept[row] for row in ROWS if row in kept]
        publish("slim_auto", "`--slim auto`, alone and together", markdown(HEADERS, rows))


if __name__ == "__main__":
    main()
