"""What the server keeps of an engine's throughput, and what it bears.

python benchmarks/serving.py            # all of it
python benchmarks/serving.py --part endurance    # one part, nine minutes at the most
python benchmarks/serving.py --small    # fewer requests, small models: whether it works, no figures

Every server is a process of its own and is asked over the loopback address. Clients send bodies that were
made before: what they compute would be taken from the engine, which has the same cores.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tritonclient.http as triton
from tables import markdown, publish
from tritonclient.utils import np_to_triton_dtype

import edgec
from edgec import zoo

CLIENTS = 64
MOST_SECONDS = 80.0
"""For one round of requests: a part has six at most, and is to end within nine minutes."""

GOALS = {"saturation": 0.9, "batching": 1.3}
"""The server's throughput over the engine's own, and shared runs' over one at a time, at the least."""
_MEGABYTE = 1 << 20


class Process:
    """`edgec serve` of one bundle.

    Args:
        bundle: the bundle.
        options: more of the command line.
    """

    def __init__(self, bundle: Path, *options: str) -> None:
        command = [sys.executable, "-m", "edgec.cli.main", "serve", f"m={bundle}", "--port", "0", *options]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        self.told = json.loads(self._process.stderr.readline())
        self.host, _, port = self.told["address"].removeprefix("http://").rpartition(":")
        self.port = int(port)
        # What it says from here on must not fill the pipe.
        threading.Thread(target=self._process.stderr.read, daemon=True).start()

    def status(self, field: str) -> int:
        """A number of `/proc/PID/status`: `VmRSS` in kB, or `Threads`."""
        text = Path(f"/proc/{self._process.pid}/status").read_text()
        found = re.search(rf"^{field}:\s*(\d+)", text, re.MULTILINE)
        return int(found.group(1)) if found else 0

    def stop(self) -> int:
        """End it in good order; returns its exit status."""
        self._process.terminate()
        return self._process.wait(60)


@contextlib.contextmanager
def served(bundle: Path, *options: str) -> Iterator[Process]:
    """A server while the block runs."""
    process = Process(bundle, *options)
    try:
        yield process
    finally:
        assert process.stop() == 0, "the server did not stop in good order"


def request_of(feeds: dict[str, np.ndarray], binary: bool = True) -> bytes:
    """A whole HTTP request, as Triton's client would send it."""
    inputs = []
    for name, array in feeds.items():
        inputs.append(triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype)))
        inputs[-1].set_data_from_numpy(array, binary_data=binary)
    body, header = triton.InferenceServerClient.generate_request_body(inputs)
    lines = ["POST /v2/models/m/infer HTTP/1.1", "Host: here", f"Content-Length: {len(body)}"]
    if header is not None:
        lines.append(f"Inference-Header-Content-Length: {header}")
    return "\r\n".join([*lines, "", ""]).encode() + bytes(body)


async def asked(
    process: Process, request: bytes, total: int, clients: int, seconds: float = MOST_SECONDS
) -> Counter[int]:
    """So many requests from so many clients, each with one under way at a time; answers by status.

    After so many seconds no more are sent.
    """
    left = iter(range(total))
    end = time.monotonic() + seconds
    statuses: Counter[int] = Counter()

    async def one() -> None:
        reader, writer = await asyncio.open_connection(process.host, process.port)
        for _ in left:
            if time.monotonic() > end:
                break
            writer.write(request)
            await writer.drain()
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            await reader.readexactly(int(length.group(1)) if length else 0)
            statuses[int(head.split()[1])] += 1
        writer.close()

    await asyncio.gather(*(one() for _ in range(clients)))
    return statuses


def throughput(process: Process, request: bytes, total: int) -> float:
    """Answers a second at saturation."""
    asyncio.run(asked(process, request, max(8, total // 10), 8))
    started = time.perf_counter()
    statuses = asyncio.run(asked(process, request, total, 8))
    seconds = time.perf_counter() - started
    assert set(statuses) == {200}, statuses
    return statuses[200] / seconds


def engines_own(bundle: Path, seconds: float) -> tuple[float, dict[str, np.ndarray]]:
    """Runs a second of the engine alone, in a process that does nothing else, and a sample."""
    with edgec.load(bundle) as session:
        feeds = session.bundle.samples()[0][0]
        for _ in range(3):
            session.run(feeds)
        count, started = 0, time.perf_counter()
        while time.perf_counter() - started < seconds:
            session.run(feeds)
            count += 1
        return count / (time.perf_counter() - started), feeds


def saturation(bundle: Path, total: int, seconds: float) -> list[object]:
    """The server beside the engine, in turns."""
    ratios, shares = [], []
    for _ in range(3):
        alone, feeds = engines_own(bundle, seconds)
        with served(bundle, "--no-batching") as process:
            through = throughput(process, request_of(feeds), total)
        ratios.append(through / alone)
        shares.append((alone, through))
    alone, through = np.median(np.asarray(shares), axis=0)
    return [bundle.name, float(alone), float(through), float(np.median(ratios))]


def batching(bundle: Path, total: int) -> list[object]:
    """Requests of one row with and without shared runs, from as many clients."""
    with edgec.load(bundle) as session:
        request = request_of({name: array[:1] for name, array in session.bundle.samples()[0][0].items()})
    found = {}
    for option in ("--batching", "--no-batching"):
        with served(bundle, option) as process:
            started = time.perf_counter()
            statuses = asyncio.run(asked(process, request, total, CLIENTS))
            assert set(statuses) == {200}, statuses
            found[option] = statuses[200] / (time.perf_counter() - started)
            if option == "--batching":
                rows = process.told["rows"]["m"]
    ratio = found["--batching"] / found["--no-batching"]
    return [bundle.name, rows, found["--no-batching"], found["--batching"], ratio]


def endurance(bundle: Path, total: int) -> str:
    """Many requests from 64 clients: no error, and the memory stays."""
    with edgec.load(bundle) as session:
        request = request_of(session.bundle.samples()[0][0])
    with served(bundle) as process:
        statuses = asyncio.run(asked(process, request, total // 5, CLIENTS, 100))
        before = process.status("VmRSS")
        statuses += asyncio.run(asked(process, request, total - total // 5, CLIENTS, 350))
        after = process.status("VmRSS")
    return (
        f"{sum(statuses.values())} of {total} requests from {CLIENTS} clients: {dict(statuses)}; "
        f"resident {before / 1024:.0f} MB after a "
        f"fifth of them, {after / 1024:.0f} MB at the end ({after / before - 1:+.1%})"
    )


def hostile(bundle: Path, count: int) -> str:
    """Clients that stall in the head, in the body or over the answer, or send nonsense; others are served."""
    with edgec.load(bundle) as session:
        request = request_of(session.bundle.samples()[0][0])
    head, _, body = request.partition(b"\r\n\r\n")
    kinds = [b"", request[:20], head, head + b"\r\n\r\n" + body[:10], b"\x00\xff\r\n\r\n", b"GET\r\n\r\n"]
    with served(bundle) as process:
        asyncio.run(asked(process, request, 20, 2))
        threads, memory = process.status("Threads"), process.status("VmRSS")
        sockets = []
        for index in range(count):
            sockets.append(socket.create_connection((process.host, process.port), timeout=60))
            with contextlib.suppress(OSError):
                sockets[-1].sendall(kinds[index % len(kinds)])
        started = time.perf_counter()
        statuses = asyncio.run(asked(process, request, 200, 4))
        seconds = time.perf_counter() - started
        more = process.status("Threads") - threads
        grown = (process.status("VmRSS") - memory) / 1024
        for one in sockets:
            one.close()
    return (
        f"{count} stalled or malformed clients: {more} threads and {grown:.0f} MB more; meanwhile 200 "
        f"requests of others {dict(statuses)} in {seconds:.1f} s"
    )


def overload(bundle: Path, total: int) -> str:
    """More clients than a short queue holds: some are told to come again, and afterwards all is as before."""
    with edgec.load(bundle) as session:
        request = request_of(session.bundle.samples()[0][0])
    with served(bundle, "--queue", "4", "--no-batching") as process:
        statuses = asyncio.run(asked(process, request, total, CLIENTS))
        after = asyncio.run(asked(process, request, 100, 2))
        with urllib.request.urlopen(f"{process.told['address']}/v2/health/ready", timeout=60) as answer:
            ready = answer.status
    return f"overload, a queue of 4: {dict(statuses)}; then 100 requests {dict(after)}, ready {ready}"


def compiled(folder: Path, name: str) -> Path:
    """A bundle of a zoo model for this machine by ONNX Runtime."""
    return edgec.compile(f"zoo:{name}", target="x86:ort", output=folder / f"{name}.x86.edgec").path


def compiled_open(folder: Path, name: str) -> Path:
    """The same with its batch left open: the model as a file, whose first axis has no size."""
    import torch

    module, examples = zoo.module(name)
    path = folder / f"{name}_open.onnx"
    batch = torch.export.Dim("n", min=1, max=64)
    doubled = tuple(torch.cat([example, example]) for example in examples)
    torch.onnx.export(
        module,
        doubled,
        path,
        input_names=["x"],
        dynamic_shapes=({0: batch},),
        dynamo=True,
        external_data=False,
    )
    out = folder / f"{name}_open.x86.edgec"
    shape = "x".join(["n", *map(str, examples[0].shape[1:])])
    return edgec.compile(str(path), target="x86:ort", inputs=[f"x:{shape}:float32"], output=out).path


def _saturation(folder: Path, small: bool) -> str:
    bundle = compiled(folder, "vit_digits" if small else "deit_tiny")
    headers = ["bundle", "engine", "server", f"ratio (goal at least {GOALS['saturation']})"]
    row = saturation(bundle, 100 if small else 1000, 0.5 if small else 10.0)
    said = "One request after another beside the engine alone, answers a second:"
    return f"{said}\n\n{markdown(headers, [row])}"


def _batching(folder: Path, small: bool) -> str:
    row = batching(compiled_open(folder, "vit_digits"), 500 if small else 20_000)
    goal = f"ratio (goal at least {GOALS['batching']})"
    headers = ["bundle", "rows", "one at a time", "sharing runs", goal]
    return f"Requests of one row from {CLIENTS} clients, answers a second:\n\n" + markdown(headers, [row])


def _endurance(folder: Path, small: bool) -> str:
    return endurance(compiled(folder, "vit_digits"), 200 if small else 50_000)


def _hostile(folder: Path, small: bool) -> str:
    return hostile(compiled(folder, "vit_digits"), 60 if small else 1000)


def _overload(folder: Path, small: bool) -> str:
    return overload(compiled(folder, "vit_digits"), 500 if small else 5000)


PARTS = {
    "saturation": _saturation,
    "batching": _batching,
    "endurance": _endurance,
    "hostile": _hostile,
    "overload": _overload,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--small", action="store_true", help="fewer requests, small models; nothing is kept")
    parser.add_argument("--part", choices=PARTS, action="append", help="this part only; may be given again")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory(prefix="edgec-serving-") as scratch:
        for name in options.part or PARTS:
            folder = Path(scratch) / name
            folder.mkdir()
            said = PARTS[name](folder, options.small)
            if options.small:
                print(said, flush=True)
            else:
                publish(f"serving_{name}", f"The server: {name}", said)


if __name__ == "__main__":
    main()
