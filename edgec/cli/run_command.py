"""`edgec run`: one run of a bundle on given inputs, or on its own first sample."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgec.cli import options
from edgec.core.quoting import printable

DEFAULT_TOKENS = 32
"""Tokens that `--generate` gives at most where nothing is said."""

DEFAULT_TOKENS = 32
"""Tokens that `--generate` gives at most where nothing is said."""


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
    generate: Annotated[
        bool, typer.Option("--generate", help="of a decoder: generate what follows a prompt")
    ] = False,
    ids: Annotated[
        str | None, typer.Option("--ids", metavar="N,N,…", help="with --generate: the prompt's tokens")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", help="with --generate: how many at most")
    ] = None,
    temperature: Annotated[
        float, typer.Option("--temperature", help="with --generate: above 0, draw tokens by their scores")
    ] = 0.0,
    top_k: Annotated[
        int, typer.Option("--top-k", help="with --temperature: draw among this many of the highest scores")
    ] = 0,
    seed: Annotated[int, typer.Option("--seed", help="with --temperature: of the draws")] = 0,
    stop: Annotated[
        list[int] | None,
        typer.Option("--stop", help="with --generate: a token that ends it; repeatable"),
    ] = None,
    key: options.Key = None,
    as_json: options.AsJson = False,
) -> None:
    """Run a bundle on given inputs, or on its own sample."""
    if generate:
        from edgec.cli.generating import Asked, run_generation

        most = DEFAULT_TOKENS if max_new_tokens is None else max_new_tokens
        asked = Asked(inputs, ids, most, temperature, top_k, seed, None if stop is None else tuple(stop))
        run_generation(bundle, asked, output, key, as_json=as_json)
        return
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
