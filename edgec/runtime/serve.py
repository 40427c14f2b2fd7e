"""`python -m edgec.runtime.serve BUNDLE`: a bundle over HTTP, for images that carry only the runtime."""

from __future__ import annotations

import argparse
import sys

from edgec.core.errors import EdgecError
from edgec.runtime.server import serve
from edgec.runtime.session import load


def main(arguments: list[str]) -> int:
    """Serve until interrupted; returns the exit status."""
    parser = argparse.ArgumentParser(prog="edgec.runtime.serve", description=__doc__)
    parser.add_argument("bundle", help="the bundle's folder or zip file")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args(arguments)
    try:
        with load(options.bundle) as session:
            feeds, _ = session.bundle.samples()
            session.run(feeds[0])  # a broken engine stops here, not at the first request
            serve(session.run, options.host, options.port, lambda text: print(text, file=sys.stderr))
    except EdgecError as error:
        print(f"edgec: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
