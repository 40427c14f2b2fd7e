"""The command `edgec-runtime`: verify, run, measure and serve bundles where nothing else of edgec is."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from edgec.core.bundle import Bundle, check_writable_file, write_arrays, writing_file
from edgec.core.errors import EdgecError, MissingExtraError, NumericsError, RequestError, Terminated
from edgec.core.quoting import printable
from edgec.runtime.pictures import label_of, read_feeds
from edgec.runtime.session import load
from edgec.runtime.verification import verify
from edgec.version import __version__

_NAME = "edgec-runtime"


def main() -> None:
    """Run a command line; the exit status is 1 where the job failed, 2 where the request was wrong."""
    options = _parser().parse_args()
    # A container's first process is not ended by a SIGTERM that it does not handle.
    signal.signal(signal.SIGTERM, _terminate)
    try:
        options.function(options)
    except EdgecError as error:
        print(f"{_NAME}: {printable(str(error))}", file=sys.stderr)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except Terminated:
        sys.exit(128 + signal.SIGTERM)


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise Terminated


def _verify(options: argparse.Namespace) -> None:
    with load(options.bundle, key=options.key) as session:
        found = verify(session)
    if found.broken:
        raise NumericsError(
            found.broken,
            where=str(options.bundle),
            fix="compile the model again on this machine",
        )
    print(
        f"{found.samples} samples, off by {found.difference.max_abs:.1e} at most, "
        f"{found.difference.scaled:.1e} of the output's spread: within the gate"
    )
    if found.greedy is not None:
        print(found.greedy)


def _run(options: argparse.Namespace) -> None:
    if options.output is not None:
        check_writable_file(options.output)
    with load(options.bundle, key=options.key) as session:
        io = session.bundle.io
        feeds = read_feeds(options.input, io) if options.input else session.bundle.samples()[0][0]
        outputs = session.run(feeds)
    if options.output is not None:
        with writing_file(options.output) as scratch:
            write_arrays(scratch, outputs)
    for name, array in outputs.items():
        first = ", ".join(f"{value:.4g}" for value in array.ravel()[:5].tolist())
        label = label_of(array, io.labels)
        said = f"  {printable(label)}" if label else ""
        print(f"{printable(name)}  {array.dtype} {list(array.shape)}  [{first}, …]{said}")


def _bench(options: argparse.Namespace) -> None:
    with load(options.bundle, key=options.key) as session:
        feeds = session.bundle.samples()[0][0]
        for _ in range(3):
            session.run(feeds)
        times: list[float] = []
        end = time.perf_counter() + options.seconds
        while not times or time.perf_counter() < end:
            started = time.perf_counter()
            session.run(feeds)
            times.append(1e3 * (time.perf_counter() - started))
    p50, p90, p99 = np.percentile(times, (50, 90, 99)).tolist()
    if options.json:
        print(json.dumps({"runs": len(times), "p50": p50, "p90": p90, "p99": p99}))
    else:
        print(f"{p50:.3f} ms (p90 {p90:.3f}, p99 {p99:.3f}), {len(times)} runs one after the other")


def _health(options: argparse.Namespace) -> None:
    from edgec.packaging.runtime.health import check_health

    # The server compared the files when it started.
    check_health(Bundle.open(options.bundle, check=False), options.address.rstrip("/"), options.seconds)


def _serve(options: argparse.Namespace) -> None:
    try:
        from edgec.serving.server import Options, serve
    except ImportError as error:
        raise MissingExtraError(str(error.name), "serve") from error
    from edgec.serving.bundles import opened

    with opened(options.bundles, options.batching, options.key) as models:
        delay = options.batch_delay / 1e3
        settings = Options(
            options.host, options.port, options.queue, options.timeout, delay, options.log_requests
        )
        try:
            serve(models, __version__, settings)
        except OSError as error:
            raise RequestError(
                f"cannot listen on {options.host}:{options.port} ({error.strerror})",
                fix="give another --host or --port",
            ) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=_NAME, description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--version", action="version", version=f"{_NAME} {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, function: Any, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.set_defaults(function=function)
        made.add_argument("--key", type=Path, metavar="PUB.pem", help="demand a signature by this key")
        return made

    verifying = command("verify", _verify, "compare a bundle's engine with what its source computed")
    running = command("run", _run, "run a bundle once, on its own sample or on --input")
    measuring = command("bench", _bench, "measure a bundle's latency")
    for one in (verifying, running, measuring):
        one.add_argument("bundle", type=Path, metavar="BUNDLE", help="its folder or its zip file")
    running.add_argument("--input", type=Path, metavar="F", help="an .npz file of the inputs, or a picture")
    running.add_argument("--output", type=Path, metavar="F.npz", help="where the outputs go")
    measuring.add_argument("--seconds", type=float, default=3.0, help="how long to measure")
    measuring.add_argument("--json", action="store_true", help="print one JSON object")
    asking = commands.add_parser("health", help="ask a server for a bundle's own sample")
    asking.set_defaults(function=_health)
    asking.add_argument("bundle", type=Path, metavar="BUNDLE", help="the folder of the bundle that it serves")
    asking.add_argument("--address", default="http://127.0.0.1:8000", metavar="URL", help="the server's")
    asking.add_argument("--seconds", type=float, default=4.0, help="how long to wait")
    serving = command("serve", _serve, "serve bundles over HTTP: the Open Inference Protocol, version 2")
    serving.add_argument("bundles", nargs="+", metavar="BUNDLE", help="PATH or NAME=PATH")
    serving.add_argument("--host", default="127.0.0.1")
    serving.add_argument("--port", type=int, default=8000, help="0 takes any that is free")
    serving.add_argument("--queue", type=int, default=256, help="requests that wait for a model")
    serving.add_argument("--timeout", type=float, default=30.0, help="seconds that a request may take")
    serving.add_argument(
        "--batch-delay", type=float, default=2.0, help="milliseconds to hold a request back to share a run"
    )
    serving.add_argument("--no-batching", dest="batching", action="store_false", help="a run a request")
    serving.add_argument("--log-requests", action="store_true", help="log each request")
    return parser


if __name__ == "__main__":
    main()
