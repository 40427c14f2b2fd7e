"""The suite of x86 models beside every peer, as `edgec bench --suite x86` measures it.

    python benchmarks/x86_suite.py [--tokens] [NAME …]

With names, only those are measured again and the table keeps the others, each with when it was measured.
"""

from __future__ import annotations

import datetime
import json
import math
import statistics
import sys
from typing import Any

from tables import RESULTS, markdown, publish

from edgec.core.progress import progress
from edgec.suite import MODELS, TOKEN_MODELS, run_suite

BLOCKS = 9


def main(arguments: list[str]) -> None:
    """Measure and publish."""
    tokens = "auto" if "--tokens" in arguments else "off"
    names = [argument for argument in arguments if not argument.startswith("--")]
    name = "x86_suite_tokens" if tokens == "auto" else "x86_suite"
    kept = RESULTS / f"{name}.json"
    rows: dict[str, dict[str, Any]] = json.loads(kept.read_text("utf-8")) if kept.exists() else {}

    def keep(row: dict[str, Any]) -> None:
        if "error" in row:
            print(f"{row['name']}: {row['error']}", file=sys.stderr)
            return
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes")
        rows[row["name"]] = {**row, "measured_at": now}
        kept.write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n", encoding="utf-8")

    with progress() as steps:
        fields = run_suite(names, tokens=tokens, quick=False, blocks=BLOCKS, progress=steps, on_row=keep)
    order = TOKEN_MODELS if tokens == "auto" else MODELS
    publish(name, f"x86 beside its peers, tokens {tokens}", _body(rows, order, fields))


def _body(rows: dict[str, dict[str, Any]], order: tuple[str, ...], fields: dict[str, Any]) -> str:
    known = [rows[name] for name in order if name in rows]
    labels = list(dict.fromkeys(label for row in known for label in row["peers_ms"]))
    table = markdown(
        [
            "model",
            "edgec ms",
            "spread",
            "share of roofline",
            *labels,
            "over the best peer",
            "cosine",
            "engine",
            "at",
        ],
        [
            [
                row["name"],
                f"{row['edgec_ms']:.2f}",
                f"{row['spread']:.0%}",
                f"{row['roofline_share']:.0%}",
                *(_peer(row, label) for label in labels),
                f"{row['ratio_to_best_peer']:.3f}",
                f"{row['cosine']:.4f}",
                row["engine"],
                row["measured_at"][11:16],
            ]
            for row in known
        ],
    )
    mean = math.exp(statistics.fmean(math.log(row["ratio_to_best_peer"]) for row in known))
    padded = "".join(
        f" {row['name']}: {row['valid_tokens']:.0%} of the input's tokens are real, the rest is "
        "padding, which peers compute."
        for row in known
        if row.get("valid_tokens") is not None
    )
    missing = [name for name in order if name not in rows]
    return (
        f"{table}\n\nGeometric mean over the best peer: {mean:.3f} over {len(known)} models"
        f"{'; not measured: ' + ', '.join(missing) if missing else ''}.\n\n"
        f"Milliseconds a run, batch 1, {BLOCKS} alternating blocks, each model with its peers in one "
        f"process; peers with their share of the roofline. A peer in brackets does not keep a mean cosine of "
        f"{fields['bound']} to the source and does not count. {fields['data']}.{padded}"
    )


def _peer(row: dict[str, Any], label: str) -> str:
    if label not in row["peers_ms"]:
        return "–"
    text = f"{row['peers_ms'][label]:.2f} ({row['peers_roofline_share'][label]:.0%})"
    return f"[{text}]" if label in row["peers_not_counted"] else text


if __name__ == "__main__":
    main(sys.argv[1:])
