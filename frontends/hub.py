"""Whether the Hugging Face hub can be reached, found out in seconds rather than retries."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlparse

_PATIENCE_SECONDS = 3.0


def is_reachable() -> bool:
    """Whether the hub, or the proxy in front of it, takes connections; asks for at most 3 seconds.

    `HF_HUB_OFFLINE` and `HF_ENDPOINT` are respected.
    """
    import huggingface_hub.constants

    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return False
    endpoint = urlparse(huggingface_hub.constants.ENDPOINT)
    proxy = os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy")
    address = urlparse(proxy) if proxy else endpoint
    host, port = address.hostname or "", address.port or (443 if address.scheme == "https" else 80)
    reached = threading.Event()

    def connect() -> None:
        with contextlib.suppress(OSError):
            socket.create_connection((host, port), timeout=_PATIENCE_SECONDS).close()
            reached.set()

    # In a thread of its own: looking up a name takes no timeout.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(_PATIENCE_SECONDS)
    return reached.is_set()


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Let huggingface_hub answer from its cache only."""
    import huggingface_hub.constants

    before = huggingface_hub.constants.HF_HUB_OFFLINE
    huggingface_hub.constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        huggingface_hub.constants.HF_HUB_OFFLINE = before
