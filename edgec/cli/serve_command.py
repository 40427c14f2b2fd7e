"""`edgec serve`: bundles over HTTP, by the Open Inference Protocol."""

from __future__ import annotations

from typing import Annotated

import typer

from edgec.cli import options
from edgec.core.errors import MissingExtraError, RequestError


def command(
    bundles: Annotated[
        list[str], typer.Argument(metavar="BUNDLE…", help="bundles, each as PATH or NAME=PATH")
    ],
    host: Annotated[str, typer.Option("--host", help="the address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes any that is free")] = 8000,
    waiting: Annotated[
        int, typer.Option("--queue", min=1, help="requests that wait for a model; more are refused with 503")
    ] = 256,
    seconds: Annotated[
        float, typer.Option("--timeout", min=0.001, help="seconds that a request may take")
    ] = 30.0,
    delay: Annotated[
        float,
        typer.Option(
            "--batch-delay", min=0.0, help="milliseconds that a request is held back to share a run at most"
        ),
    ] = 2.0,
    batching: Annotated[
        bool, typer.Option("--batching/--no-batching", help="let requests share a run where rows allow it")
    ] = True,
    key: options.Key = None,
    log_requests: Annotated[
        bool, typer.Option("--log-requests", help="log each request, and not failures alone")
    ] = False,
) -> None:
    """Serve bundles over HTTP: the Open Inference Protocol, version 2."""
    try:
        from edgec.serving.server import Options, serve
    except ImportError as error:
        raise MissingExtraError(str(error.name), "serve") from error
    from edgec.serving.bundles import opened
    from edgec.version import __version__

    settings = Options(host, port, waiting, seconds, delay / 1e3, log_requests)
    with opened(bundles, batching, key) as models:
        try:
            serve(models, __version__, settings)
        except OSError as error:
            raise RequestError(
                f"cannot listen on {host}:{port} ({error.strerror})", fix="give another --host or --port"
            ) from error
