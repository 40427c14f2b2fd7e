"""A model over HTTP, with nothing but the standard library, numpy and a reader of npz files.

    GET  /health     200 once the model runs: {"status": "ready", "runs": N}
    POST /run        body: an .npz file with the inputs by name; answer: an .npz file with the outputs

One run at a time: an engine of the edge has one device to run on. The file is written for Python 3.8, because
bundles carry a copy of it to devices, with `npz` beside it.
"""

from __future__ import annotations

import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Callable, Mapping

import numpy as np

try:
    from edgec_engine import npz  # on a device
except ImportError:
    from edgec.core import npz

Run = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]

LARGEST_BODY = 256 << 20
"""Bytes of the largest request that is read, and of the arrays in it once they are unpacked."""

_LONGEST_WAIT = 60.0
"""Seconds that a client may keep silent before it is hung up on."""


def serve(run: Run, host: str, port: int, say: Callable[[str], None]) -> None:
    """Answer until interrupted.

    Args:
        run: arrays by name to arrays by name; its exceptions are the client's errors.
        host: the address to listen on.
        port: the port; 0 for any that is free.
        say: told the address.
    """
    server = make(run, host, port)
    say("listening on http://{}:{}".format(*server.server_address[:2]))
    try:
        server.serve_forever()
    finally:
        server.server_close()


def make(run: Run, host: str, port: int) -> ThreadingHTTPServer:
    """A server that listens and is not started yet; arguments as `serve`."""
    lock, count = threading.Lock(), [0]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = _LONGEST_WAIT

        def do_GET(self) -> None:
            if self.path == "/health":
                self._json(200, {"status": "ready", "runs": count[0]})
            else:
                self._json(404, {"error": "there are GET /health and POST /run"})

        def do_POST(self) -> None:
            said = (self.headers.get("Content-Length") or "").strip()
            length = int(said) if said.isascii() and said.isdigit() and len(said) < 20 else 0
            if self.path != "/run" or not 0 < length <= LARGEST_BODY:
                self.close_connection = True
                status = 404 if self.path != "/run" else 413 if length else 411
                self._json(status, {"error": "post an .npz file of at most 256 MiB to /run"})
                return
            try:
                feeds = _read(self.rfile.read(length))
                with lock:
                    outputs = run(feeds)
                    count[0] += 1
            except Exception as error:
                self._json(400, {"error": str(error)})
                return
            buffer = io.BytesIO()
            npz.write(buffer, outputs)
            self._answer(200, "application/octet-stream", buffer.getvalue())

        def log_message(self, *_: Any) -> None:
            """Nothing: a line a request would fill the device's disk."""

        def _json(self, status: int, fields: dict[str, Any]) -> None:
            self._answer(status, "application/json", json.dumps(fields).encode())

        def _answer(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return ThreadingHTTPServer((host, port), Handler)


def _read(body: bytes) -> dict[str, np.ndarray]:
    try:
        return npz.read(io.BytesIO(body), LARGEST_BODY)
    except npz.NpzError as error:
        raise ValueError(f"the body is not an .npz file of named arrays ({error})") from error
