"""Models that the suite does not hold, each beside every peer: what the choice is worth off its suite.

    python benchmarks/x86_held_out.py [--models N] [--search-time 60s] [NAME …]
    python benchmarks/x86_held_out.py --busy [--models N] [--search-time 60s] [NAME …]
    python benchmarks/x86_held_out.py --table       # the tables again, from what is kept
    python benchmarks/x86_held_out.py --draw [SEED] # what a seed draws from timm's list; takes some minutes

Twelve models of timm, drawn by `SEED` among those of at most 30 M parameters and 320 pixels that the zoo does
not hold, one a family, and three encoders of transformers from their published configurations. Nothing is
tuned to them: each time the search changes, they are drawn anew with another seed.

A model is compiled as `edgec compile MODEL --max-drop 1%` does, on 64 drawn scenes (or real sentences) for
the search and others held out, and the engine is then measured beside all peers, in alternating blocks of one
process. A peer counts where it keeps a mean cosine of 0.99 to the source on the held-out inputs. Rows are
kept one by one, so that an interrupted run goes on where it was; a row that is kept is not measured again
unless it is named. With `--busy` each model is compiled again while a second process takes a core for the
first half of the search; both engines are then measured side by side on the quiet machine.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import json
import math
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tables import RESULTS, markdown, publish
from x86_suite import machine

from edgec import amounts, zoo
from edgec.bench.suite import BOUND, ENTRY, MAX_DROP, Entry, measured, prepare
from edgec.bench.suite_data import SAMPLES, drawn_scenes
from edgec.compiler import compile_graph, load
from edgec.core.errors import EdgecError, RequestError
from edgec.core.graph import Graph
from edgec.core.progress import Progress, progress
from edgec.core.timing import Latency, measure
from edgec.devices.host import cache_folder, measured_rates
from edgec.judging.accuracy import EvaluationData
from edgec.request import Request
from edgec.runtime.session import load as load_session

NAME = "x86_held_out"

SEED = 20261201
COUNT = 12
LIMIT = 30_000_000
SIDE = 320
"""Largest side of a picture, by the model's configuration: one of 518 takes as long as all the others."""

TIMM = (
    "mobilenetv3_small_100",
    "tf_efficientnet_lite3",
    "regnetv_040",
    "fastvit_sa12",
    "cpubone_t0",
    "mobilevitv2_125",
    "edgenext_x_small",
    "efficientvit_m5",
    "cait_xxs36_224",
    "resnetblur18",
    "ese_vovnet19b_slim",
    "xcit_tiny_24_p16_224",
)
"""What `--draw` gives for `SEED` in timm 1.0.31, in the order drawn."""

ENCODERS: dict[str, tuple[str, dict[str, int]]] = {
    "electra_small": (
        "ElectraConfig",
        {"hidden_size": 256, "embedding_size": 128, "num_hidden_layers": 12, "num_attention_heads": 4}
        | {"intermediate_size": 1024},
    ),
    "mobilebert": ("MobileBertConfig", {}),
    "bert_small": (
        "BertConfig",
        {"hidden_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8, "intermediate_size": 2048},
    ),
}
"""Classes and sizes as published (Clark et al., 2020; Sun et al., 2020; Turc et al., 2019)."""

BLOCKS = 11
SAME = 0.05
"""A choice made on a busy machine may be slower by this share, or be the same."""


def main(arguments: list[str]) -> None:
    """Measure and publish."""
    options, names = _options(arguments)
    if "draw" in options:
        print("\n".join(drawn(int(options["draw"] or SEED))))
        return
    kept = RESULTS / f"{NAME}.json"
    machines: dict[str, dict[str, Any]] = json.loads(kept.read_text("utf-8")) if kept.exists() else {}
    mine = machines.setdefault(machine(), {"rows": {}, "busy": {}})
    rows = mine["busy" if "busy" in options else "rows"]
    seconds = _seconds(options.get("search-time", "150s"))
    wanted = names or [name for name in order() if name not in rows][: int(options.get("models", 99))]
    if "table" not in options:
        with progress() as steps:
            for name in wanted:
                print(name, file=sys.stderr, flush=True)
                try:
                    row = _busy_row(name, seconds, steps) if "busy" in options else _row(name, seconds, steps)
                except EdgecError as error:
                    row = {"error": str(error)}
                now = datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes")
                rows[name] = {**row, "search_limit": seconds, "measured_at": now, "seed": SEED}
                kept.write_text(json.dumps(machines, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    publish(NAME, "x86 on models that the suite does not hold", _body(machines))


def _options(arguments: list[str]) -> tuple[dict[str, str], list[str]]:
    """Options by name, with what follows those that take something, and the models named."""
    options: dict[str, str] = {}
    names = []
    left = list(arguments)
    while left:
        word = left.pop(0)
        if word in ("--models", "--search-time"):
            options[word[2:]] = left.pop(0)
        elif word == "--draw":
            options["draw"] = left.pop(0) if left else ""
        elif word in ("--busy", "--table"):
            options[word[2:]] = ""
        elif word.startswith("-"):
            sys.exit(__doc__)
        else:
            names.append(word)
    return options, names


def _seconds(text: str) -> float:
    milliseconds = amounts.milliseconds(text, "--search-time")
    assert milliseconds is not None
    return milliseconds / 1e3


def order() -> list[str]:
    """All models, an encoder after every fourth of timm: a part of the whole is like the whole."""
    encoders = list(ENCODERS)
    found: list[str] = []
    for index, name in enumerate(TIMM, start=1):
        found.append(name)
        if index % (COUNT // len(encoders)) == 0:
            found.append(encoders.pop(0))
    return found


def drawn(seed: int) -> list[str]:
    """Names drawn from timm's list: one a family, small, none of the zoo or for tests.

    A family is one of timm's model modules; parameters are counted without storage.
    """
    from edgec.frontends.torchvision_guard import require

    require("timm", "timm")
    import timm
    import torch

    in_zoo = {zoo.entry(name).source.removeprefix("timm:") for name in zoo.names()}
    names = sorted(timm.list_models())
    random.Random(seed).shuffle(names)
    found: dict[str, str] = {}
    for name in names:
        family = timm.model_entrypoint(name).__module__
        if family in found or name in in_zoo or name.startswith("test_"):
            continue
        with torch.device("meta"):
            size = sum(parameter.numel() for parameter in timm.create_model(name).parameters())
        if size <= LIMIT and max(timm.get_pretrained_cfg(name).input_size) <= SIDE:
            found[family] = name
        if len(found) == COUNT:
            break
    return list(found.values())


def _loaded(name: str, scratch: Path, steps: Progress) -> tuple[Graph, EvaluationData, EvaluationData]:
    """A model, what the search may look at, and what is held out."""
    if name not in ENCODERS:
        graph = load(f"timm:{name}", progress=steps)
        return graph, drawn_scenes(graph, "calibration"), drawn_scenes(graph, "held out")
    from edgec.frontends.torchvision_guard import require

    require("torch", "transformers")
    import torch
    import transformers

    kind, sizes = ENCODERS[name]
    torch.manual_seed(SEED)
    model = transformers.AutoModel.from_config(getattr(transformers, kind)(**sizes))
    model.save_pretrained(scratch / name)
    graph = load(f"hf:{scratch / name}", progress=steps)
    parts = [_sentences(graph, "calibration"), _sentences(graph, "held out")]
    return graph, *parts


def _sentences(graph: Graph, part: str) -> EvaluationData:
    """The sentences of zoo:minilm: all of these encoders take the same vocabulary of 30,522 pieces."""
    draw = zoo.calibration if part == "calibration" else zoo.evaluation
    own = draw("minilm", count=SAMPLES[part])
    if own is None:
        raise RequestError("minilm brings no sentences here")
    inputs = {spec.name: own.inputs[spec.name] for spec in graph.inputs}
    return EvaluationData(f"minilm's sentences, {part}", inputs, None)


def _request(folder: Path, seconds: float) -> Request:
    request = Request.checked("x86", folder / "model.edgec", "auto", max_drop=MAX_DROP)
    return dataclasses.replace(request, search_seconds=seconds)


def _folder(name: str) -> Path:
    return cache_folder() / "x86-held-out" / name


def _row(name: str, seconds: float, steps: Progress) -> dict[str, Any]:
    """Compile a model, make its peers' files, and measure all; the bundle is kept for `--busy`."""
    folder = _folder(name)
    with tempfile.TemporaryDirectory(prefix="edgec-held-out-") as scratch:
        graph, seen, held_out = _loaded(name, Path(scratch), steps)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        fields = prepare(name, graph, seen, held_out, _request(folder, seconds), steps)
    (folder / ENTRY).write_text(json.dumps(fields, indent=1) + "\n", encoding="utf-8")
    return measured(Entry(folder, fields), BLOCKS, measured_rates().rates, steps)


@contextlib.contextmanager
def _second_process(seconds: float) -> Iterator[None]:
    """Another process that takes a core, for so long or as long as the block."""
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    timer = threading.Timer(seconds, other.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        other.kill()
        other.wait()


def _busy_row(name: str, seconds: float, steps: Progress) -> dict[str, Any]:
    """Compile a model once more beside a second process, and measure the two engines side by side.

    Raises:
        RequestError: it was not compiled on the quiet machine yet.
    """
    quiet = Entry(_folder(name), {})
    if not (quiet.folder / ENTRY).is_file():
        raise RequestError(f"{name} was not compiled on the quiet machine", fix="run without --busy first")
    with tempfile.TemporaryDirectory(prefix="edgec-held-out-") as scratch:
        folder = Path(scratch)
        graph, seen, held_out = _loaded(name, folder, steps)
        for data, file in ((seen, "seen.npz"), (held_out, "held_out.npz")):
            np.savez(folder / file, **data.inputs)  # type: ignore[arg-type]
        with _second_process(seconds / 2):
            bundle = compile_graph(
                graph,
                _request(folder, seconds),
                calib=folder / "seen.npz",
                eval_data=folder / "held_out.npz",
                progress=steps,
            )
        report = bundle.report()
        latencies = _side_by_side(quiet.bundle, bundle.path, bundle.samples()[0][0])
        before = json.loads((quiet.folder / ENTRY).read_text(encoding="utf-8"))
    entry = next(entry for entry in report["latency"]["entries"] if entry["role"] == "chosen")
    ratio = latencies["busy"].ratio_to(latencies["quiet"])
    return {
        "quiet": before["engine"],
        "busy": entry["name"],
        "disturbed": report["search"]["disturbed"],
        "ratio": ratio,
        "ratio_interval": latencies["busy"].ratio_interval(latencies["quiet"]).to_json(),
        "holds": entry["name"] == before["engine"] or ratio <= 1 + SAME,
    }


def _side_by_side(quiet: Path, busy: Path, feeds: Any) -> dict[str, Latency]:
    with load_session(quiet, check=False) as one, load_session(busy, check=False) as other:
        calls = {
            "quiet": functools.partial(one.run, feeds),
            "busy": functools.partial(other.run, feeds),
        }
        return measure(calls, blocks=BLOCKS, block_seconds=0.2)


def _body(machines: dict[str, dict[str, Any]]) -> str:
    sections = []
    for name, each in sorted(machines.items()):
        if each["rows"]:
            sections.append(f"## {name}\n\n{_quiet_section(each['rows'])}")
        if each.get("busy"):
            sections.append(f"### Beside a second process\n\n{_busy_section(each['busy'])}")
    described = (
        f"Drawn with seed {SEED} from timm's list: {', '.join(TIMM)}; from their configurations: "
        f"{', '.join(ENCODERS)}. All weights are random: what int8 costs in cosine may differ from what it "
        "costs trained weights. Pictures are drawn scenes brought to the model's size and normalisation, "
        "texts are real sentences; calibration and held-out ones differ. Milliseconds a run, batch 1, in "
        f"alternating blocks; a peer in brackets does not keep a mean cosine of {BOUND} to the source on "
        "held-out inputs and does not count."
    )
    return "\n\n".join([*sections, described])


def _quiet_section(rows: dict[str, dict[str, Any]]) -> str:
    known = {name: row for name, row in rows.items() if "error" not in row}
    labels = list(dict.fromkeys(label for row in known.values() for label in row["peers_ms"]))
    lines = [
        [
            name, f"{row['edgec_ms']:.2f}", *(_peer(row, label) for label in labels),
            f"{row['ratio_to_best_peer']:.3f}", _interval(row), f"{row['cosine']:.4f}", row["engine"],
            f"{row['search_seconds']:.0f} of {row['search_limit']:.0f}",
        ]
        for name, row in sorted(known.items(), key=lambda item: item[1]["ratio_to_best_peer"])
    ]  # fmt: skip
    headers = ["model", "edgec ms", *labels, "over the best peer", "interval", "cosine", "engine", "search s"]
    text = markdown(headers, lines)
    if known:
        ratios = {name: row["ratio_to_best_peer"] for name, row in known.items()}
        mean = math.exp(statistics.fmean(map(math.log, ratios.values())))
        worst = max(ratios, key=lambda name: ratios[name])
        slower = [name for name, row in known.items() if row["verdict"] == "slower"]
        text += (
            f"\n\nGeometric mean over the best peer: {mean:.3f} over {len(known)} models; worst "
            f"{ratios[worst]:.3f} ({worst}); slower beyond the noise: {', '.join(slower) or 'none'}."
        )
    failed = [f"{name}: {row['error']}" for name, row in rows.items() if "error" in row]
    missing = [name for name in order() if name not in rows]
    text += f" Not compiled: {'; '.join(failed)}." if failed else ""
    return text + (f" Not measured: {', '.join(missing)}." if missing else "")


def _busy_section(rows: dict[str, dict[str, Any]]) -> str:
    known = {name: row for name, row in rows.items() if "error" not in row}
    lines = [
        [
            name, row["quiet"], row["busy"], row["disturbed"], f"{row['ratio']:.3f}", _interval(row),
            "yes" if row["holds"] else "no",
        ]
        for name, row in known.items()
    ]  # fmt: skip
    headers = ["model", "quiet", "busy for half", "disturbed rounds", "busy over quiet", "interval"]
    return markdown([*headers, f"same or within {SAME:.0%}"], lines)


def _interval(row: dict[str, Any]) -> str:
    found = row["ratio_interval"]
    return "–" if found is None else f"{found[0]:.3f}–{found[1]:.3f}"


def _peer(row: dict[str, Any], label: str) -> str:
    if label not in row["peers_ms"]:
        return "–"
    text = f"{row['peers_ms'][label]:.2f}"
    return f"[{text}]" if label in row["peers_not_counted"] else text


if __name__ == "__main__":
    main(sys.argv[1:])
