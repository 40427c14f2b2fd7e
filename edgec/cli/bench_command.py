"""`edgec bench`: an engine against what a user would otherwise run, in alternating blocks."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from edgec.cli import options
from edgec.core.errors import JobError, RequestError


def command(
    model: options.ModelOrBundle = "",
    suite: Annotated[
        str, typer.Option("--suite", metavar="x86", help="the suite's models beside all peers")
    ] = "",
    quick: Annotated[
        bool, typer.Option("--quick", help="with --suite: two models, from searches that were kept")
    ] = False,
    models: Annotated[
        str, typer.Option("--models", metavar="NAME,…", help="with --suite: these zoo models only")
    ] = "",
    tokens: Annotated[
        str, typer.Option("--tokens", metavar="off|auto", help="with --suite: whether to reduce tokens too")
    ] = "off",
    against: Annotated[
        str, typer.Option("--against", metavar="ort,openvino,torch", help="peers on the exporter's own graph")
    ] = "",
    device: Annotated[
        str, typer.Option("--device", help="where to measure; this machine is 'local'")
    ] = "local",
    blocks: Annotated[int, typer.Option("--blocks", min=2, help="blocks of runs for each engine")] = 9,
    precision: Annotated[options.Precision, typer.Option("--precision")] = options.Precision.auto,
    example: options.Example = None,
    inputs: options.Inputs = None,
    batch: options.Batch = None,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
) -> None:
    """Measure a model or a bundle beside its peers, or a suite of models beside all peers."""
    from edgec.bench.against import bench
    from edgec.cli.output import print_json
    from edgec.core.progress import progress

    if suite:
        _suite(model, suite, quick, _listed(models), tokens, blocks, as_json)
        return
    if quick or models or tokens != "off":
        raise RequestError("--quick, --models and --tokens go with --suite", fix="add --suite x86")
    if not model:
        raise RequestError("nothing to measure", fix="name a model or a bundle, or --suite x86")
    with progress() as steps:
        fields = bench(
            model,
            against=_listed(against),
            device=device,
            blocks=blocks,
            precision=precision.value,
            example=example,
            inputs=inputs or [],
            batch=batch,
            seed=seed,
            progress=steps,
        )
    if as_json:
        print_json(fields)
    else:
        _print(fields)


def _listed(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _suite(
    model: str, suite: str, quick: bool, models: list[str], tokens: str, blocks: int, as_json: bool
) -> None:
    from edgec.bench.suite import QUICK_BLOCKS, SUITES, run_suite
    from edgec.cli.output import print_json
    from edgec.core.progress import progress

    if suite not in SUITES:
        raise RequestError(f"no suite is named {suite!r}", fix=f"choose from {', '.join(SUITES)}")
    if model:
        raise RequestError("a suite measures its own models", fix="leave out MODEL, or --suite")
    if tokens not in ("off", "auto"):
        raise RequestError(f"--tokens {tokens!r} is nothing for a suite", fix="write off or auto")
    with progress() as steps:
        fields = run_suite(
            models, tokens=tokens, quick=quick, blocks=QUICK_BLOCKS if quick else blocks, progress=steps
        )
    if as_json:
        print_json(fields)
    else:
        _print_suite(fields)
    if failed := [row["name"] for row in fields["models"] if "error" in row]:
        raise JobError(f"not measured: {', '.join(failed)}", fix="read the reason of each in the table")


def _print_suite(fields: dict[str, Any]) -> None:
    from edgec.cli.output import print_table

    print(
        f"suite {fields['suite']} on {fields['device']}, --tokens {fields['tokens']}: milliseconds a run, "
        f"{fields['blocks']} alternating blocks, share of the roofline in %"
    )
    measured = [row for row in fields["models"] if "error" not in row]
    labels = list(dict.fromkeys(label for row in measured for label in row["peers_ms"]))
    rows = []
    for row in measured:
        peers = [_peer_cell(row, label) for label in labels]
        share = 100 * row["roofline_share"]
        rows.append([row["name"], row["edgec_ms"], 100 * row["spread"], share, *peers])
        rows[-1] += [row["best_peer"], row["ratio_to_best_peer"], row["verdict"]]
    print_table(
        [
            "model",
            "edgec",
            "spread %",
            "share %",
            *labels,
            "best peer",
            "edgec's latency over it",
            "edgec is",
        ],
        rows,
    )
    for row in fields["models"]:
        print(f"{row['name']}: {row['error'] if 'error' in row else row['engine']}")
        if row.get("valid_tokens") is not None:
            full = row["unpadded"]
            said = f"; with every token real {full['ratio_to_best_peer']:.3f}" if full else ""
            print(f"  {row['valid_tokens']:.0%} of its tokens are real, the rest is padding{said}")
        for label, why in row.get("peers_not_counted", {}).items():
            print(f"  {label} does not count: {why}")
    if fields["geometric_mean"] is not None:
        print(f"geometric mean of the ratios to the best peer: {fields['geometric_mean']:.3f}")
    print(f"Peers count from a mean cosine of {fields['bound']} to the source. {fields['data']}.")


def _peer_cell(row: dict[str, Any], label: str) -> str:
    if label not in row["peers_ms"]:
        return "–"
    counted = "" if label not in row["peers_not_counted"] else " (not counted)"
    share = 100 * row["peers_roofline_share"][label]
    return f"{row['peers_ms'][label]:.2f} ± {100 * row['peers_spread'][label]:.0f} %, {share:.0f} %{counted}"


def _print(fields: dict[str, Any]) -> None:
    from edgec.cli.output import between, print_table

    print(
        f"{fields['model']} on {fields['device']}: milliseconds a run, measured in {fields['blocks']} "
        "alternating blocks"
    )
    print_table(
        ["engine", "p50", "median between", "p90", "edgec's latency over it", "between", "edgec is"],
        [
            [
                entry["name"],
                entry["p50"],
                between(entry["interval"]),
                entry["p90"],
                entry["edgec_over_it"],
                between(entry["ratio_interval"]),
                entry["verdict"],
            ]
            for entry in fields["entries"]
        ],
    )
