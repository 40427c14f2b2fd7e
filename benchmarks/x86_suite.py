"""The suite of x86 models beside every peer, as `edgec bench --suite x86` measures it.

    python benchmarks/x86_suite.py [--tokens] [NAME …]
    python benchmarks/x86_suite.py [--tokens] --table     # the tables again, from what is kept

Rows are kept by machine, each with when it was measured; with names, only those are measured again. On a
machine with more cores, `taskset -c 0,1` in front gives the two cores of the others.
"""

from __future__ import annotations

import datetime
import json
import math
import statistics
import sys
from typing import Any

from tables import RESULTS, markdown, publish

from edgec.bench.suite import BOUND, MODELS, TOKEN_MODELS, run_suite
from edgec.bench.suite_data import DESCRIPTION
from edgec.core.progress import progress
from edgec.devices.cpu import read_processor
from edgec.devices.host import host_profile
from edgec.report.assemble import tool_versions

BLOCKS = 15

_PRODUCTS = ("avx512_bf16", "amx_bf16", "avx512_vnni", "avx_vnni", "amx_int8")
"""Instruction sets that decide which peers are fast."""


def main(arguments: list[str]) -> None:
    """Measure and publish."""
    tokens = "auto" if "--tokens" in arguments else "off"
    names = [argument for argument in arguments if not argument.startswith("--")]
    name = "x86_suite_tokens" if tokens == "auto" else "x86_suite"
    kept = RESULTS / f"{name}.json"
    machines: dict[str, dict[str, Any]] = json.loads(kept.read_text("utf-8")) if kept.exists() else {}
    mine = machines.setdefault(machine(), {"rows": {}})

    def keep(row: dict[str, Any]) -> None:
        if "error" in row:
            print(f"{row['name']}: {row['error']}", file=sys.stderr)
            return
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes")
        mine["rows"][row["name"]] = {**row, "blocks": BLOCKS, "measured_at": now}
        mine["tools"] = tool_versions()
        kept.write_text(json.dumps(machines, indent=1, sort_keys=True) + "\n", encoding="utf-8")

    if "--table" not in arguments:
        with progress() as steps:
            run_suite(names, tokens=tokens, quick=False, blocks=BLOCKS, progress=steps, on_row=keep)
    order = TOKEN_MODELS if tokens == "auto" else MODELS
    publish(name, f"x86 beside its peers, tokens {tokens}", _body(machines, order))


def machine() -> str:
    """This machine, with the products that it has beyond fp32."""
    have = [name for name in _PRODUCTS if name in read_processor().isa]
    return f"{host_profile().name} ({', '.join(have) or 'AVX2, neither bf16 nor VNNI'})"


def _body(machines: dict[str, dict[str, Any]], order: tuple[str, ...]) -> str:
    sections = [
        f"## {name}\n\n{_section(each['rows'], order)}\n\nWith "
        + ", ".join(f"{tool} {version}" for tool, version in each.get("tools", {}).items())
        + "."
        for name, each in sorted(machines.items())
        if each["rows"]
    ]
    return "\n\n".join(
        [
            *sections,
            "Milliseconds a run, batch 1, in alternating blocks, each model with its peers in one "
            "process; peers with their share of the roofline. A peer in brackets does not keep a mean cosine "
            f"of {BOUND} to the source and does not count. {DESCRIPTION}.",
        ]
    )


def _section(rows: dict[str, dict[str, Any]], order: tuple[str, ...]) -> str:
    known = [rows[name] for name in order if name in rows]
    labels = list(dict.fromkeys(label for row in known for label in row["peers_ms"]))
    table = markdown(
        [
            "model", "edgec ms", "spread", "share of roofline", *labels, "over the best peer", "cosine",
            "engine", "tokens", "blocks", "measured",
        ],
        [
            [
                row["name"], f"{row['edgec_ms']:.2f}", f"{row['spread']:.0%}", f"{row['roofline_share']:.0%}",
                *(_peer(row, label) for label in labels), f"{row['ratio_to_best_peer']:.3f}",
                f"{row['cosine']:.4f}", row["engine"], row.get("tokens") or "all", str(row["blocks"]),
                row["measured_at"][:10],
            ]
            for row in known
        ],
    )  # fmt: skip
    mean = math.exp(statistics.fmean(math.log(row["ratio_to_best_peer"]) for row in known))
    padded = "".join(
        f" {row['name']}: {row['valid_tokens']:.0%} of the input's tokens are real, the rest is "
        f"padding, which peers compute{_unpadded(row)}."
        for row in known
        if row.get("valid_tokens") is not None
    )
    missing = [name for name in order if name not in rows]
    return (
        f"{table}\n\nGeometric mean over the best peer: {mean:.3f} over {len(known)} models"
        f"{'; not measured: ' + ', '.join(missing) if missing else ''}.{padded}"
    )


def _unpadded(row: dict[str, Any]) -> str:
    if not row.get("unpadded"):
        return ""
    found = row["unpadded"]
    return (
        f"; with every token real, {found['edgec_ms']:.2f} ms, {found['ratio_to_best_peer']:.3f} of the best "
        f"peer's ({found['best_peer']})"
    )


def _peer(row: dict[str, Any], label: str) -> str:
    if label not in row["peers_ms"]:
        return "–"
    text = f"{row['peers_ms'][label]:.2f} ({row['peers_roofline_share'][label]:.0%})"
    return f"[{text}]" if label in row["peers_not_counted"] else text


if __name__ == "__main__":
    main(sys.argv[1:])
