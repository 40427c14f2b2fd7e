"""A model over HTTP, with nothing but the standard library and numpy.

    GET  /health     200 once the model runs: {"status": "ready", "runs": N}
    POST /run        body: an .npz file with the inputs by name; answer: an .npz file with the outputs

One run at a time: an engine of the edge has one device to run on. The file is written for Python 3.8 and
imports nothing of edgec, because bundles carry a copy of it to devices.
"""

from __future__ import annotations

import io
import json
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Callable, Mapping

import numpy as np

Run = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]

LARGEST_BODY = 256 << 20
"""Bytes of the largest request that is read."""


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

        def do_GET(self) -> None:
            if self.path == "/health":
                self._json(200, {"status": "ready", "runs": count[0]})
            else:
                self._json(404, {"error": "there are GET /health and POST /run"})

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
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
            np.savez(buffer, **outputs)  # type: ignore[arg-type]
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
        with np.load(io.BytesIO(body), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError("the body is not an .npz file of named arrays") from error
