"""`edgec sign`: a bundle's signature, in the OpenSSF model-signing format."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from edgec.cli import options

PASSWORD = "EDGEC_KEY_PASSWORD"


def command(
    bundle: options.BundlePath,
    key: Annotated[
        Path,
        typer.Option(
            "--key",
            metavar="KEY.pem",
            help=f"a private key of the curve P-256; one that is encrypted is opened with ${PASSWORD}",
        ),
    ],
    as_json: options.AsJson = False,
) -> None:
    """Sign a bundle's files as they are."""
    from edgec.core.bundle import Bundle, sign

    password = os.environ.get(PASSWORD)
    opened = Bundle.open(bundle)
    path = sign(opened, key, password.encode() if password else None)
    if as_json:
        from edgec.cli.output import print_json

        print_json(
            {"bundle": str(bundle), "signature": str(path), "files": len(opened.manifest["files"]) + 1}
        )
    else:
        print(path)
