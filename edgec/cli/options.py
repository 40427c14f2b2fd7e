"""Argument groups: the same flag means the same in every command."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer


class Precision(enum.StrEnum):
    """What `--precision` takes."""

    auto = "auto"
    fp32 = "fp32"
    fp16 = "fp16"
    bf16 = "bf16"
    int8 = "int8"
    int4 = "int4"


def _models(incomplete: str) -> list[str]:
    """The zoo's models, for the shell to complete."""
    from edgec import zoo

    return [f"zoo:{name}" for name in zoo.names() if f"zoo:{name}".startswith(incomplete)]


Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="file.onnx, file.py:function, zoo:NAME, timm:NAME, or hf:DIR (a checkpoint folder)",
        autocompletion=_models,
    ),
]
ModelOrBundle = Annotated[
    str, typer.Argument(metavar="MODEL|BUNDLE", help="a model as compile takes it, or a bundle's folder")
]
BundlePath = Annotated[Path, typer.Argument(metavar="BUNDLE", help="a bundle: its folder or its zip file")]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="NAME:SHAPE:DTYPE",
        help="shape of an input that the model leaves open, e.g. pixels:1x3x224x224:float32; "
        "a letter or a name keeps a dimension open; NAME=VALUE fixes an input of an ONNX file, e.g. sr=16000",
    ),
]
Example = Annotated[
    Path | None,
    typer.Option("--example", metavar="F.npz", help="real inputs by name, checked before any drawn ones"),
]
Batch = Annotated[int | None, typer.Option("--batch", min=1, help="batch size")]
Passes = Annotated[
    str, typer.Option("--passes", metavar="±NAME,…", help="take passes out (-NAME) or put them in (+NAME)")
]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="seed of everything that is drawn")]
Key = Annotated[
    Path | None, typer.Option("--key", metavar="PUB.pem", help="demand a signature by this public key")
]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON object on standard output")]


def pass_edits(text: str) -> list[str]:
    """`-a.b,+c.d` as a list of edits."""
    return [edit.strip() for edit in text.split(",") if edit.strip()]
