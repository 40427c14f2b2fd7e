"""`python -m edgec.runtime.serve BUNDLE`: a bundle over HTTP, for images that carry only the runtime."""

from __future__ import annotations

import argparse
import signal
import sys
from types import FrameType

from edgec.core.errors import EdgecError, Terminated
from edgec.runtime.server import serve
from edgec.runtime.session import load


def main(arguments: list[str]) -> int:
    """Serve until interrupted; returns the exit status."""
    parser = argparse.ArgumentParser(prog="edgec.runtime.serve", description=__doc__)
    parser.add_argument("bundle", help="the bundle's folder or zip file")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args(arguments)
    # A container's first process is not ended by a SIGTERM that it does not handle.
    signal.signal(signal.SIGTERM, _terminate)
    try:
        with load(options.bundle) as session:
            feeds, _ = session.bundle.samples()
            session.run(feeds[0])  # a broken engine stops here, not at the first request
            serve(session.run, options.host, options.port, lambda text: print(text, file=sys.stderr))
    except EdgecError as error:
        print(f"edgec: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Terminated:
        return 128 + signal.SIGTERM
    return 0


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise Terminated


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
