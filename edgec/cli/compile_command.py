"""`edgec compile`: from a model to a verified bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgec.cli import options


def command(
    model: options.Model,
    target: Annotated[
        str,
        typer.Option(
            "--target",
            help="x86, x86:ort, x86:openvino, x86:tvm, coreml[:ios16|ios17|ios18], jetson[:PROFILE], "
            "rtx[:smNN], or arm[:CORE]",
        ),
    ],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="the bundle's folder")] = None,
    precision: Annotated[options.Precision, typer.Option("--precision")] = options.Precision.auto,
    tokens: Annotated[
        str, typer.Option("--tokens", metavar="off|auto|r=N|keep=F|SITE:R+…", help="token reduction")
    ] = "off",
    slim: Annotated[
        str, typer.Option("--slim", metavar="off|auto|KIND=F|UNIT=N+…", help="slimming by measured latency")
    ] = "off",
    latency: Annotated[str | None, typer.Option("--latency", help="largest median latency, e.g. 5ms")] = None,
    max_drop: Annotated[
        str | None,
        typer.Option("--max-drop", help="largest drop of the score on the evaluation data, e.g. 1%"),
    ] = None,
    search_time: Annotated[
        str | None, typer.Option("--search-time", help="what all searches may take, e.g. 150s or 10m")
    ] = None,
    calib: Annotated[Path | None, typer.Option("--calib", help="calibration inputs, an .npz file")] = None,
    eval_data: Annotated[
        Path | None, typer.Option("--eval-data", help="held-out inputs and 'labels', an .npz file")
    ] = None,
    example: options.Example = None,
    inputs: options.Inputs = None,
    batch: options.Batch = None,
    passes: options.Passes = "",
    allow_fallback: Annotated[
        bool, typer.Option("--allow-fallback", help="let a target run what it cannot take elsewhere")
    ] = False,
    seed: options.Seed = 0,
    zipped: Annotated[bool, typer.Option("--zip", help="also pack the bundle into a zip file")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Compile a model for a target and write its bundle."""
    import edgec
    from edgec.core.bundle import pack
    from edgec.core.progress import progress
    from edgec.report.assemble import summary

    # Every target takes a graph whole or refuses it: nothing runs elsewhere, and an op of edgec's own that
    # runs by its definition, in the same engine, is reported and needs no leave.
    del allow_fallback
    with progress() as steps:
        bundle = edgec.compile(
            model,
            target=target,
            output=output,
            precision=precision.value,
            latency=latency,
            max_drop=max_drop,
            eval_data=eval_data,
            calib=calib,
            tokens=tokens,
            slim=slim,
            search_time=search_time,
            example=example,
            inputs=inputs or (),
            batch=batch,
            passes=options.pass_edits(passes),
            seed=seed,
            progress=steps,
        )
        archive = pack(bundle.path) if zipped else None
    fields = summary(bundle)
    if archive is not None:
        fields["zip"] = str(archive)
    if as_json:
        from edgec.cli.output import print_json

        print_json(fields)
    else:
        _print_summary(fields)


def _print_summary(fields: dict[str, Any]) -> None:
    latency, numerics = fields["latency_ms"], fields["numerics"]
    print(f"bundle    {fields['bundle']}")
    print(f"engine    {fields['engine']} {fields['precision']} ({fields['form']})")
    if latency["p50"] is None:
        print("latency   not measured: the engine runs on other machines")
    else:
        _print_latency(latency)
    reduced = fields["tokens"] or fields["slim"]
    print(
        f"numerics  off by {numerics['max_abs']:.1e} at most, {numerics['scaled']:.1e} of the spread, "
        + ("against the reduced network in fp32" if reduced else "against the source's own outputs")
        + ("" if numerics["kind"] == "measured" else f"; {numerics['kind']}: {numerics['ran']}")
    )
    if fields["greedy"]:
        _print_greedy(fields["greedy"])
    print(f"drawn     {_drawn(fields['inputs_drawn'])}")
    if fields["precision"] != "fp32":
        print(f"ranges    from {fields['ranges_from']}")
    if fields["branches"]:
        _print_branches(fields["branches"])
    accuracy = fields["accuracy"]
    if accuracy:
        print(
            f"accuracy  {accuracy['engine']:.2%} (source {accuracy['source']:.2%}), {accuracy['metric']} "
            f"on {accuracy['samples']} held-out samples, {accuracy['kind']}"
        )
    if fields["slim"]:
        _print_slim(fields["slim"], scored=accuracy is not None)
    if fields["tokens"]:
        _print_tokens(fields["tokens"], scored=accuracy is not None)
    for finding in fields["known_wrong"]:
        print(f"warning   {finding['text']}")
        print(f"          told in {', '.join(finding['sources'])}")
    for fallback in fields["fallbacks"]:
        print(f"fallback  {fallback['what']} not used: {fallback['why']}")
        print(f"          instead: {fallback['instead']}")
        print(f"          cost: {fallback['cost']}")
    fused = [
        f"{name.removeprefix('fuse.')} {step['matched']}"
        + (f" (+{len(step['missed'])} not)" if step["missed"] else "")
        for name, step in fields["fusions"].items()
        if name.startswith("fuse.") and (step["matched"] or step["missed"])
    ]
    print(f"fused     {', '.join(fused) or 'nothing'}")
    if fields["neural_engine"]:
        _print_neural_engine(fields["neural_engine"])
    print(f"report    {fields['report']}")


def _print_greedy(greedy: dict[str, Any]) -> None:
    from edgec.core.greedy import Greedy

    told = Greedy(**{name: value for name, value in greedy.items() if name != "others"})
    print(f"tokens    {told}, in {told.generations} whole generations")


def _drawn(inputs: list[dict[str, str]]) -> str:
    """What the inputs are, those that are alike together."""
    alike: dict[str, list[str]] = {}
    for item in inputs:
        alike.setdefault(item["what"], []).append(item["name"])
    return "; ".join(
        f"{', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''} {what}"
        for what, names in alike.items()
    )


def _print_branches(branches: dict[str, Any]) -> None:
    missed = [f"{site['name']} {side}" for site in branches["sites"] for side in site["missed"]]
    sides = f"; never {', '.join(missed)} in {branches['tried']} tries" if missed else ", every side taken"
    print(f"branches  {len(branches['sites'])} places that decide by values{sides}")
    timed = [path for path in branches["paths"] if path["p50"] is not None]
    if len(timed) > 1:
        fastest, slowest = (f"{path['p50']:.2f} ms ({path['share']:.0%})" for path in (timed[0], timed[-1]))
        print(
            f"          {len(timed)} ways measured: the fastest takes {fastest} and the slowest {slowest} of "
            f"{branches['shares_of']}"
        )


def _print_tokens(tokens: dict[str, Any], *, scored: bool) -> None:
    if tokens["name"] == "none":
        print("tokens    all kept: no schedule that was tried is faster")
        _print_slower_looks(tokens)
        return
    baseline, padding = tokens["baseline"], tokens["padding"]
    beside = f", {baseline['ratio']:.2f} × the same engine with all" if baseline else ""
    print(f"tokens    {tokens['before']} to {tokens['after']}, --tokens {tokens['name']}{beside}")
    if baseline and baseline["ratio"] > 1.0:
        print("          it is slower than with all tokens: leave --tokens off, or choose fewer layers")
    _print_slower_looks(tokens)
    _print_ungated(tokens, scored=scored)
    if padding:
        print(
            f"          the data fills at most {padding['longest']} of {padding['of']} tokens; inputs that "
            f"fill all have a mean cosine of {padding['cosine']:.4f} to the source"
        )


def _print_slim(slim: dict[str, Any], *, scored: bool) -> None:
    if slim["name"] == "none":
        print("slim      all kept: no plan that was tried is faster")
        _print_slower_looks(slim)
        return
    cut = [unit for unit in slim["units"] if unit["kept"] < unit["size"]]
    told = []
    for kind in dict.fromkeys(unit["kind"] for unit in cut):
        alike = [unit for unit in cut if unit["kind"] == kind]
        told.append(f"{kind} {sum(u['kept'] for u in alike)} of {sum(u['size'] for u in alike)}")
    baseline = slim["baseline"]
    beside = f", {baseline['ratio']:.2f} × the same engine of the whole network" if baseline else ""
    print(f"slim      {', '.join(told)} kept, {slim['work']:.0%} of the work{beside}")
    print(f"          --slim {slim['name']}")
    if baseline and baseline["ratio"] > 1.0:
        print("          it is slower than the whole network: leave --slim off")
    _print_slower_looks(slim)
    _print_ungated(slim, scored=scored)


def _print_ungated(section: dict[str, Any], *, scored: bool) -> None:
    if not section["gated"]:
        near = f", cosine {section['agreement']['cosine']:.5f} to the source on the samples"
        print(f"          no budget was set: nothing gated what it costs{'' if scored else near}")


def _print_slower_looks(tokens: dict[str, Any]) -> None:
    """What a search had chosen and the last measurement refused."""
    for look in (tokens["held_out"] or {}).get("looks", []):
        if look["ratio"] is not None and look["ratio"] >= 1.0:
            beside = f"{look['ratio']:.2f} × as long as with all"
            print(f"          not {look['name']}: measured last, it took {beside}")


def _print_neural_engine(section: dict[str, Any]) -> None:
    counts, placement = section["counts"], section["placement"]
    print(
        f"predicted {placement['neural_engine']} operations on the Neural Engine, "
        f"{placement['elsewhere']} elsewhere; {counts['may leave']} may leave, {counts['slow']} slow it down"
    )


def _print_latency(latency: dict[str, Any]) -> None:
    from edgec.cli.output import between
    from edgec.core.timing import SAME

    within = f"median within {between(latency['interval'])}, " if latency["interval"] else ""
    print(f"latency   {latency['p50']:.2f} ms ({within}p90 {latency['p90']:.2f}), measured here")
    if latency["verdict"] is None:
        return
    beside = f"{latency['baseline']}'s {latency['baseline_p50']:.2f} ms"
    ratio = f"{latency['ratio']:.2f} × it"
    if latency["ratio_interval"]:
        ratio += f", within {between(latency['ratio_interval'])}"
    if latency["verdict"] == SAME:
        print(f"          {SAME} from {beside} ({ratio})")
    else:
        print(f"          {latency['verdict']} than {beside}: {ratio}")
