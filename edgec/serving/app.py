"""The server's addresses.

GET  /v2/health/live                     200 while the process answers
GET  /v2/health/ready                    200 while every model takes requests
GET  /v2                                 the server's name, version and extensions, and its models' names
GET  /v2/models/NAME[/versions/V]        the model's metadata
GET  /v2/models/NAME[/versions/V]/ready  200 while it takes requests
POST /v2/models/NAME[/versions/V]/infer  the Open Inference Protocol's inference
GET  /metrics                            for Prometheus
"""

from __future__ import annotations

import time
from typing import Any, Callable, Mapping, Sequence

import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from edgec.serving import log
from edgec.serving.batching import Queue
from edgec.serving.bodies import Bodies, header_length, largest
from edgec.serving.metrics import CONTENT_TYPE, Metrics
from edgec.serving.protocol import HEADER_LENGTH, InferRequest, RefusalError, read_request, write_response

NAME = "edgec"
EXTENSIONS = ("binary_tensor_data",)

_GONE = 499
"""The status that is counted, and never sent, where the client left first."""

Endpoint = Callable[[Request], Any]


class Service:
    """What answers requests.

    Args:
        queues: a queue for every model.
        metrics: what is counted.
        version: the server's version.
        seconds: how long a request may take; a client may ask for less.
        log_requests: whether each is logged.
    """

    def __init__(
        self, queues: Sequence[Queue], metrics: Metrics, version: str, seconds: float, log_requests: bool
    ) -> None:
        self._queues = {queue.model.name: queue for queue in queues}
        self._metrics = metrics
        self._version = version
        self._seconds = seconds
        self._log_requests = log_requests
        self._bodies = Bodies()
        self._largest = {queue.model.name: largest(queue.model) for queue in queues}

    def app(self, lifespan: Callable[[Any], Any]) -> Starlette:
        """The application.

        Args:
            lifespan: an asynchronous context manager that it runs in.
        """
        routes = [
            Route("/v2", self._server, methods=["GET"]),
            Route("/v2/health/live", self._live, methods=["GET"]),
            Route("/v2/health/ready", self._ready, methods=["GET"]),
            Route("/metrics", self._show_metrics, methods=["GET"]),
        ]
        for path in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            routes += [
                Route(path, self._metadata, methods=["GET"]),
                Route(f"{path}/ready", self._model_ready, methods=["GET"]),
                Route(f"{path}/infer", self._infer, methods=["POST"]),
            ]
        handlers = {RefusalError: _refused, HTTPException: _no_such_address}
        return Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)

    async def _server(self, _: Request) -> Response:
        fields = {"name": NAME, "version": self._version, "extensions": list(EXTENSIONS)}
        return JSONResponse({**fields, "models": list(self._queues)})

    async def _live(self, _: Request) -> Response:
        return Response()

    async def _ready(self, _: Request) -> Response:
        return Response(status_code=200 if all(map(self._takes, self._queues.values())) else 503)

    async def _model_ready(self, request: Request) -> Response:
        return Response(status_code=200 if self._takes(self._queue(request)) else 503)

    async def _metadata(self, request: Request) -> Response:
        return JSONResponse(self._queue(request).model.to_json())

    async def _show_metrics(self, _: Request) -> Response:
        return Response(self._metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def _infer(self, request: Request) -> Response:
        started = time.perf_counter()
        queue = self._queue(request)
        status, message = _GONE, None
        try:
            answer = await self._answered(request, queue)
            status = answer.status_code
        except RefusalError as refusal:
            status, message = refusal.status, refusal.message
            raise
        except ClientDisconnect:
            return Response(status_code=_GONE)
        finally:
            seconds = time.perf_counter() - started
            self._metrics.answered(queue.model.name, status, seconds)
            if self._log_requests or status == 500:
                more = {} if message is None else {"message": message}
                milliseconds = round(1e3 * seconds, 3)
                log.write("request", model=queue.model.name, status=status, milliseconds=milliseconds, **more)
        return answer

    async def _answered(self, request: Request, queue: Queue) -> Response:
        queue.check_room()  # before its body is read
        model = queue.model
        queue.expect(1)
        size, is_expected = 0, True
        try:
            header = header_length(request)
            body = await self._bodies.read(request, self._largest[model.name], self._seconds)
            size = len(body)
            asked = read_request(body, header)
            del body
            for name in asked.outputs:
                if all(name != output.name for output in model.outputs):
                    known = ", ".join(output.name for output in model.outputs)
                    raise RefusalError(400, f"{model.name} has no output {name!r}; there are {known}")
            feeds = _called(model.fit, asked.feeds, model.name)
            seconds = self._seconds if asked.seconds is None else min(self._seconds, asked.seconds)
            queue.expect(-1)
            is_expected = False
            try:
                outputs = await queue.run(feeds, seconds)
            except RefusalError:
                raise
            except Exception as error:
                raise _failed(error, model.name) from error
            return _response(model.name, model.version, asked, outputs)
        finally:
            if is_expected:
                queue.expect(-1)
            self._bodies.release(size)

    def _queue(self, request: Request) -> Queue:
        name, version = request.path_params["model"], request.path_params.get("version", "")
        queue = self._queues.get(name)
        if queue is None:
            raise RefusalError(404, f"there is no model {name!r}; there are {', '.join(self._queues)}")
        if version not in ("", queue.model.version):
            raise RefusalError(404, f"{name} has the version {queue.model.version}, and no {version!r}")
        return queue

    def _takes(self, queue: Queue) -> bool:
        # An engine that hangs in a run takes requests and answers none.
        return queue.is_alive and queue.running_for < self._seconds


def _called(
    fit: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]],
    feeds: Mapping[str, np.ndarray],
    model: str,
) -> Mapping[str, np.ndarray]:
    try:
        return fit(feeds)
    except Exception as error:
        raise _failed(error, model) from error


def _failed(error: Exception, model: str) -> RefusalError:
    """What the client is told of a model's exception: its own error, or the model's."""
    if getattr(error, "exit_status", None) == 2:
        return RefusalError(400, str(error))
    said = str(error).strip() or type(error).__name__
    return RefusalError(500, f"{model} failed: {said}")


def _response(model: str, version: str, asked: InferRequest, outputs: Mapping[str, np.ndarray]) -> Response:
    body, header = write_response(model, version, asked, outputs)
    if header is None:
        return Response(body, media_type="application/json")
    return Response(body, media_type="application/octet-stream", headers={HEADER_LENGTH: str(header)})


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RefusalError)
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    return JSONResponse({"error": error.message}, status_code=error.status, headers=headers)


async def _no_such_address(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = f"there is no {request.method} {request.url.path}; see GET /v2"
    headers = dict(error.headers or {})
    return JSONResponse({"error": what}, status_code=error.status_code, headers=headers)
