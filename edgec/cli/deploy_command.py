"""`edgec deploy`: a Jetson bundle, copied to its device, built, verified and measured there."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from edgec.cli import options


def command(
    bundle: options.BundlePath,
    device: Annotated[str, typer.Argument(metavar="DEVICE", help="ssh://USER@HOST[:PORT], or local")],
    rollback: Annotated[
        bool, typer.Option("--rollback", help="go back to the deployment before the last one")
    ] = False,
    build_time: Annotated[
        str,
        typer.Option(
            help="how long the device may try variants of the engine, to keep the fastest that is right; "
            "0 for none"
        ),
    ] = "10m",
    as_json: options.AsJson = False,
) -> None:
    """Build a bundle's engine on its device, verify it, and bring its latency home."""
    from edgec import amounts
    from edgec.core.bundle import Bundle
    from edgec.core.progress import progress
    from edgec.devices.connections import connect
    from edgec.devices.deployment import deploy, roll_back
    from edgec.judging.runtime_warnings import texts
    from edgec.report.measured import merge

    seconds = amounts.seconds(build_time, "--build-time")
    assert seconds is not None
    opened = Bundle.open(bundle)
    if rollback:
        with progress() as steps, connect(device) as connection:
            _say_back(str(bundle), connection.name, roll_back(opened, connection, steps), as_json)
        return
    known_wrong = texts(opened.report())
    with progress() as steps:
        for text in known_wrong:
            steps.note(text)
        steps.step(f"connecting to {device}")
        with connect(device) as connection:
            done = deploy(opened, connection, steps, seconds)
        if not opened.is_unpacked:
            merge(opened, done.measured)
    fields = {
        "bundle": str(bundle),
        "device": done.device,
        "folder": done.folder,
        "known_wrong": known_wrong,
        "checks": done.checks,
        "engine": done.engine,
        "measured": done.measured,
        "merged": not opened.is_unpacked,
    }
    if as_json:
        from edgec.cli.output import print_json

        print_json(fields)
    else:
        _print(fields)


def _say_back(bundle: str, device: str, folder: str, as_json: bool) -> None:
    if as_json:
        from edgec.cli.output import print_json

        print_json({"bundle": bundle, "device": device, "folder": folder, "rolled_back": True})
    else:
        print(f"back      {folder} is the deployment before the last one, verified ({device})")


def _print(fields: dict[str, Any]) -> None:
    engine, measured = fields["engine"], fields["measured"]
    latency, gpu, verified = measured["latency"], measured["gpu"], measured["verified"]
    print(f"device    {engine['gpu']}, TensorRT {engine['tensorrt']} ({fields['device']})")
    print(f"engine    {fields['folder']}.device, built in {engine['seconds']:.1f} s")
    choice = measured.get("choice") or {"tried": [], "left": []}
    for one in choice["tried"]:
        print(f"          {one['name']}: {'chosen' if one['won'] else one['why']}")
    if choice["left"]:
        print(f"          not tried, the time was spent: {', '.join(choice['left'])}")
    for note in engine["notes"]:
        print(f"          {note}")
    print(f"numerics  {verified['samples']} samples, off by {verified['scaled']:.1e} of the output's spread")
    print(
        f"latency   {latency['p50']:.3f} ms (p90 {latency['p90']:.3f}), {gpu['p50']:.3f} ms of it on the "
        f"GPU, power mode {measured['device']['power_mode'] or 'unknown'}"
    )
    print(f"report    {'has these figures now' if fields['merged'] else 'in a zip file, left as it is'}")
