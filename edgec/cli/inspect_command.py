"""`edgec inspect`: what a model is made of and what would fuse; or what a bundle says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgec.cli import options


def command(
    model: options.ModelOrBundle,
    example: options.Example = None,
    inputs: options.Inputs = None,
    batch: options.Batch = None,
    passes: options.Passes = "",
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
) -> None:
    """Show what a model is made of and what would fuse."""
    from edgec.cli.output import print_json
    from edgec.core.bundle import MANIFEST, Bundle
    from edgec.core.progress import progress

    if (Path(model) / MANIFEST).is_file():
        bundle = Bundle.open(model)
        fields: dict[str, Any] = {"bundle": str(bundle.path), **bundle.manifest, "io": bundle.io.to_json()}
        if as_json:
            print_json(fields)
        else:
            _print_bundle(fields)
        return
    with progress() as steps:
        fields = _inspect(model, example, inputs or [], batch, passes, seed, steps)
    if as_json:
        print_json(fields)
    else:
        _print_model(fields)


def _inspect(
    model: str,
    example: Path | None,
    inputs: list[str],
    batch: int | None,
    passes: str,
    seed: int,
    steps,
) -> dict[str, Any]:  # type: ignore[no-untyped-def]
    import dataclasses

    from edgec.compiler import load, to_neutral
    from edgec.passes.inspection import inspect_model
    from edgec.passes.pipeline import default_pipeline

    pipeline = default_pipeline().edited(options.pass_edits(passes))
    graph = load(model, example=example, inputs=inputs, batch=batch, seed=seed, progress=steps)
    source = inspect_model(graph.model)
    neutral = to_neutral(graph, pipeline, steps)
    found = inspect_model(neutral.graph.model)
    return {
        "model": dataclasses.asdict(graph.source),
        "inputs": [dataclasses.asdict(spec) for spec in graph.inputs],
        "outputs": [dataclasses.asdict(spec) for spec in graph.outputs],
        "inputs_drawn": [dataclasses.asdict(item) for item in graph.drawn],
        "branches": graph.branches.coverage(map(graph.branches.follow, graph.examples))
        if graph.branches
        else [],
        "parameters": source.parameters,
        "macs": found.macs,
        "uncounted": found.uncounted,
        "ops": {"source": source.ops, "neutral": found.ops},
        "attention": [dataclasses.asdict(site) for site in found.attention],
        "fusions": {
            report.name: {
                "matched": report.matched,
                "missed": [dataclasses.asdict(miss) for miss in report.missed],
            }
            for report in neutral.reports
        },
    }


def _print_model(fields: dict[str, Any]) -> None:
    from edgec.cli.output import print_table

    model = fields["model"]
    print(f"{model['spec']}: {model['kind']}, exporter {model['exporter']}, weights {model['weights']}")
    for role in ("inputs", "outputs"):
        for spec in fields[role]:
            print(f"{role[:-1]:8} {spec['name']}  {spec['dtype']} {'×'.join(map(str, spec['shape']))}")
    for item in fields["inputs_drawn"]:
        print(f"drawn    {item['name']}  {item['what']}")
    for branch in fields["branches"]:
        missed = f", never {' or '.join(branch['missed'])}" if branch["missed"] else ""
        print(f"{branch['kind']:8} {branch['name']}  takes {', '.join(branch['taken'])}{missed}")
    print(f"parameters {fields['parameters'] / 1e6:.2f} M, multiply-accumulates {fields['macs'] / 1e6:.1f} M")
    if fields["uncounted"]:
        print(f"not counted, a size is open: {', '.join(fields['uncounted'][:5])}")
    ops = sorted(set(fields["ops"]["source"]) | set(fields["ops"]["neutral"]))
    print()
    print_table(
        ["op", "in the source", "after the passes"],
        [[op, fields["ops"]["source"].get(op, 0), fields["ops"]["neutral"].get(op, 0)] for op in ops],
    )
    if fields["attention"]:
        print()
        print_table(
            ["attention", "kind", "heads", "queries", "keys", "head size", "mask"],
            [
                [
                    site["source"],
                    site["kind"],
                    site["heads"],
                    site["queries"],
                    site["keys"],
                    site["head_size"],
                    "yes" if site["masked"] else "no",
                ]
                for site in fields["attention"]
            ],
        )
    print()
    print_table(
        ["pass", "matched", "nearly"],
        [[name, step["matched"], len(step["missed"])] for name, step in fields["fusions"].items()],
    )
    for name, step in fields["fusions"].items():
        for miss in step["missed"]:
            print(f"{name} left {miss['source']} alone: {miss['reason']}")


def _print_bundle(fields: dict[str, Any]) -> None:
    print(f"{fields['bundle']}: {fields['model']['spec']} for {fields['target']}")
    print(f"engine    {fields['engine']} {fields['precision']} ({fields['form']})")
    for entry in fields["latency"]["entries"]:
        if entry["p50"] is not None:
            print(f"latency   {entry['name']}: {entry['p50']:.2f} ms ({entry['role']})")
    for role in ("inputs", "outputs"):
        for spec in fields["io"][role]:
            print(f"{role[:-1]:9} {spec['name']}  {spec['dtype']} {'×'.join(map(str, spec['shape']))}")
    for name, version in fields["tools"].items():
        print(f"made with {name} {version}")
