"""The command line: `python3 -m edgec_engine check|build|verify|bench|run|info|serve BUNDLE`.

With `--json`, standard output is one JSON object; whatever is said on the way goes to standard error.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
from pathlib import Path
from typing import Any, Dict, List, Tuple

import numpy as np
from edgec_engine import checks, choice, engine_file, npz, verification
from edgec_engine.bench import bench
from edgec_engine.errors import DeviceError
from edgec_engine.machine import describe
from edgec_engine.plan import LARGEST_SAMPLE, Plan, write_atomically
from edgec_engine.runner import Runner


def main(arguments: list[str]) -> int:
    """Run a command line; returns 0, 1 where the job failed, 2 where the request was wrong."""
    options = _parser().parse_args(arguments)
    try:
        fields, lines = options.function(options)
    except DeviceError as error:
        _say(f"edgec_engine: {error}")
        if options.json:
            _print({"error": {"what": error.what, "fix": error.fix}, "exit_status": error.exit_status})
        return error.exit_status
    except KeyboardInterrupt:
        _say("edgec_engine: interrupted")
        return 130
    if options.json:
        _print(fields)
    else:
        print("\n".join(lines))
    return 1 if fields.get("failed") else 0


Result = Tuple[Dict[str, Any], List[str]]


def _check(options: argparse.Namespace) -> Result:
    plan = Plan.read(options.bundle, options.state)
    report = checks.check(plan, options.plan_only)
    report["failed"] = any(entry["status"] == checks.ERROR for entry in report["checks"])
    lines = [
        "{:8} {}{}".format(c["status"], c["what"], "; " + c["fix"] if c["fix"] else "")
        for c in report["checks"]
    ]
    return report, lines


def _build(options: argparse.Namespace) -> Result:
    plan = Plan.read(options.bundle, options.state)
    checks.require(checks.check(plan))
    sidecar = choice.choose(
        plan, _say, options.build_time, again=options.again, block_seconds=options.seconds
    )
    done = "kept, it was built before" if sidecar["kept"] else "built in {:.1f} s".format(sidecar["seconds"])
    lines = ["{}: {} ({:.1f} MB)".format(plan.engine, done, sidecar["engine_bytes"] / 1e6)]
    for one in sidecar["choice"]["tried"][: len(plan.variants)]:
        lines.append("{}: {}".format(one["name"], "chosen" if one["won"] else one["why"]))
    return sidecar, lines + sidecar["notes"]


def _verify(options: argparse.Namespace) -> Result:
    plan = Plan.read(options.bundle, options.state)
    with Runner(plan) as runner:
        result = verification.verify(plan, runner)
    verification.require(result)
    return result, [
        "{samples} samples, off by {max_abs:.1e} at most, {scaled:.1e} of the spread: within the gate".format(
            **result
        )
    ]


def _bench(options: argparse.Namespace) -> Result:
    plan = Plan.read(options.bundle, options.state)
    with Runner(plan) as runner:
        _say("verifying")
        verified = verification.verify(plan, runner)
        verification.require(verified)
        _say("measuring")
        report = bench(plan, runner, options.blocks, options.seconds)
    report["verified"] = verified
    report["choice"] = choice.read(plan)
    text = json.dumps(_finite(report), indent=1, sort_keys=True) + "\n"
    path = Path(options.output) if options.output else plan.state / "measured.json"
    write_atomically(path, text.encode())
    latency, gpu = report["latency"], report["gpu"]
    return report, [
        "{:.3f} ms (p90 {:.3f}), {:.3f} ms of it on the GPU; {} runs in {} blocks".format(
            latency["p50"], latency["p90"], gpu["p50"], latency["runs"], len(latency["blocks"])
        ),
        "power mode {}, TensorRT {}".format(report["device"]["power_mode"], report["device"]["tensorrt"]),
        str(path),
    ]


def _run(options: argparse.Namespace) -> Result:
    plan = Plan.read(options.bundle, options.state)
    with Runner(plan) as runner:
        outputs = runner.run(_read_npz(options.input) if options.input else plan.samples(1)[0][0])
    if options.output:
        npz.write(options.output, outputs)
    described = {
        name: {"shape": list(array.shape), "dtype": str(array.dtype), "first": array.ravel()[:5].tolist()}
        for name, array in outputs.items()
    }
    lines = ["{} {} {} {}".format(name, e["dtype"], e["shape"], e["first"]) for name, e in described.items()]
    return {"outputs": described, "output": options.output}, lines


def _info(options: argparse.Namespace) -> Result:
    plan = Plan.read(options.bundle, options.state)
    fields = {
        "device": describe(plan.state),
        "plan": {key: value for key, value in plan.fields.items() if key != "sources"},
        "engine": None,
    }
    try:
        fields["engine"] = engine_file.read_sidecar(plan)
    except DeviceError as error:
        _say(str(error))
    return fields, [json.dumps(_finite(fields), indent=1)]


def _serve(options: argparse.Namespace) -> Result:
    try:
        from edgec_engine.service import model_of
        from edgec_engine.serving.server import Options, serve
    except ImportError as error:
        raise DeviceError(
            f"serving needs the package {error.name}, which is not installed",
            "run: python3 -m pip install starlette uvicorn prometheus-client",
            2,
        ) from error
    plan = Plan.read(options.bundle, options.state)
    checks.require(checks.check(plan))
    choice.choose(plan, _say, options.build_time)
    with Runner(plan) as runner:
        verification.require(verification.verify(plan, runner))
        try:
            serve([model_of(plan, runner)], "device", Options(options.host, options.port))
        except OSError as error:
            raise DeviceError(
                f"cannot listen on {options.host}:{options.port} ({error.strerror})",
                "give another --host or --port",
                2,
            ) from error
    return {}, []


def _read_npz(path: str) -> dict[str, np.ndarray]:
    if not Path(path).is_file():
        raise DeviceError(f"{path}: there is no such file", "name a file that is there", 2)
    try:
        return npz.read(path, LARGEST_SAMPLE)
    except npz.NpzError as error:
        raise DeviceError(
            f"{path}: not an .npz file of named arrays, or not all of one ({error})",
            "write it with numpy.savez",
            2,
        ) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="edgec_engine", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.required = True
    for name, function, text in (
        ("check", _check, "compare this device with what the bundle needs"),
        ("build", _build, "build the engine"),
        ("verify", _verify, "compare the engine with the source's own outputs"),
        ("bench", _bench, "verify and measure the engine, and each of its layers"),
        ("run", _run, "run once, on the bundle's sample or on --input"),
        ("info", _info, "show the device, the plan and the engine"),
        ("serve", _serve, "build where needed, then answer over HTTP"),
    ):
        command = commands.add_parser(name, help=text)
        command.set_defaults(function=function)
        command.add_argument("bundle", help="the bundle's folder")
        command.add_argument(
            "--state", help="where the engine is kept (else $EDGEC_STATE, else BUNDLE.device)"
        )
        command.add_argument("--json", action="store_true", help="print one JSON object")
        if name == "check":
            command.add_argument("--plan-only", action="store_true", help="leave out the bundle's files")
        if name == "build":
            length = choice.BLOCK_SECONDS
            command.add_argument("--seconds", type=float, default=length, help="length of a block of runs")
            command.add_argument("--again", action="store_true", help="even where a good engine is there")
        if name in ("build", "serve"):
            command.add_argument(
                "--build-time",
                type=_seconds,
                default=os.environ.get("EDGEC_BUILD_TIME", "10m"),
                help="what trying variants of the engine may take in all, 90s or 10m; 0 for none",
            )
        if name == "bench":
            command.add_argument("--blocks", type=int, default=7, help="blocks of runs")
            command.add_argument("--seconds", type=float, default=0.5, help="length of a block")
            command.add_argument("--output", help="where the report goes (else measured.json in the state)")
        if name == "run":
            command.add_argument("--input", help="an .npz file with the inputs by name")
            command.add_argument("--output", help="write the outputs to this .npz file")
        if name == "serve":
            command.add_argument("--host", default="127.0.0.1")
            command.add_argument("--port", type=int, default=8000)
    return parser


def _seconds(text: str) -> float:
    match = re.match(r"^\s*(\d+(?:\.\d+)?)\s*(s|m|h|)\s*$", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time, write it like 90s or 10m")
    return float(match.group(1)) * {"m": 60, "h": 3600}.get(match.group(2), 1)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _print(fields: dict[str, Any]) -> None:
    print(json.dumps(_finite(fields), indent=1))


def _finite(value: Any) -> Any:
    """Infinities as null, which JSON has."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
