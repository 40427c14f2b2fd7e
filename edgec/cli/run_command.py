"""`edgec run`: one run of a bundle on given inputs, or on its own first sample."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgec.cli import options
from edgec.core.quoting import printable


def command(
    bundle: options.BundlePath,
    inputs: Annotated[
        Path | None,
        typer.Option(
            "--input", help="an .npz file with the inputs by name, or a picture; else the bundle's sample"
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="write the outputs to this .npz file")
    ] = None,
    key: options.Key = None,
    as_json: options.AsJson = False,
) -> None:
    """Run a bundle on given inputs, or on its own sample."""
    import numpy as np

    from edgec.core.bundle import check_writable_file, write_arrays, writing_file
    from edgec.runtime.pictures import label_of, read_feeds
    from edgec.runtime.session import load

    if output is not None:
        check_writable_file(output)
    with load(bundle, key=key) as session:
        feeds = read_feeds(inputs, session.bundle.io) if inputs else session.bundle.samples()[0][0]
        results = session.run(feeds)
    if output is not None:
        with writing_file(output) as scratch:
            write_arrays(scratch, results)
    described = {
        name: {
            "shape": list(array.shape),
            "dtype": str(array.dtype),
            "first": array.ravel()[:5].tolist(),
            "argmax": int(np.argmax(array)) if array.size else None,
            "label": label_of(array, session.bundle.io.labels),
        }
        for name, array in results.items()
    }
    if as_json:
        from edgec.cli.output import print_json

        print_json({"outputs": described, "output": str(output) if output else None})
        return
    for name, fields in described.items():
        shape = "×".join(map(str, fields["shape"]))
        first = ", ".join(f"{value:.4g}" for value in fields["first"])
        label = f" ({printable(fields['label'])})" if fields["label"] else ""
        print(f"{name}  {fields['dtype']} {shape}  [{first}, …]  argmax {fields['argmax']}{label}")
