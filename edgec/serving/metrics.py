"""What the server counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from edgec.serving.batching import Queue, Run

CONTENT_TYPE = CONTENT_TYPE_LATEST

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters and histograms of one server, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._requests = Counter(
            "edgec_requests",
            "Inference requests by model and HTTP status.",
            ("model", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "edgec_request_seconds",
            "From head to answer.",
            ("model",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._run_seconds = Histogram(
            "edgec_run_seconds",
            "One run of the engine.",
            ("model",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._wait_seconds = Histogram(
            "edgec_wait_seconds",
            "The first of a run in the queue.",
            ("model",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._rows = Histogram(
            "edgec_run_rows", "Rows of one run.", ("model",), buckets=_ROWS, registry=self._registry
        )
        self._waiting = Gauge(
            "edgec_waiting", "Requests that wait for a run.", ("model",), registry=self._registry
        )

    def watch(self, queue: Queue) -> None:
        """Show a queue's length from now on."""
        self._waiting.labels(queue.model.name).set_function(lambda: len(queue))

    def answered(self, model: str, status: int, seconds: float) -> None:
        """Count an answer."""
        self._requests.labels(model, str(status)).inc()
        self._seconds.labels(model).observe(seconds)

    def ran(self, model: str, run: Run) -> None:
        """Count a run."""
        self._run_seconds.labels(model).observe(run.seconds)
        self._wait_seconds.labels(model).observe(run.waited)
        self._rows.labels(model).observe(run.rows)

    def text(self) -> bytes:
        """All of it, in Prometheus' own format."""
        return generate_latest(self._registry)
