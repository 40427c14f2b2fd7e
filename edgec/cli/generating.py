"""`edgec run --generate`: tokens as they come, and how fast they did."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

from edgec.core.errors import RequestError


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is asked of a generation.

    Attributes:
        inputs: an npz file with `input_ids`, the prompt, and with what an encoder reads; None for the
            bundle's own sample.
        ids: the prompt's tokens in words, `5,6,7`, in place of the file's.
        max_new_tokens: how many at most.
        temperature: as `Session.generate` takes it, and so are the others.
        top_k: likewise.
        seed: likewise.
        stops: likewise.
    """

    inputs: Path | None
    ids: str | None
    max_new_tokens: int
    temperature: float
    top_k: int
    seed: int
    stops: tuple[int, ...] | None


def run_generation(
    bundle: Path, asked: Asked, output: Path | None, key: Path | None, *, as_json: bool
) -> None:
    """Generate and print, token by token on a terminal's line.

    Args:
        bundle: the bundle.
        asked: what is asked.
        output: an npz file to write the new tokens to, as `tokens`.
        key: a public key that the bundle must be signed by.
        as_json: print one JSON object at the end instead.
    """
    import numpy as np

    from edgec.core.bundle import check_writable_file, read_arrays, write_arrays, writing_file
    from edgec.core.decoder import IDS
    from edgec.runtime.session import load

    if output is not None:
        check_writable_file(output)
    with load(bundle, key=key) as session:
        given = asked.inputs or bundle
        feeds = read_arrays(asked.inputs) if asked.inputs else session.bundle.samples()[0][0]
        if asked.ids is not None and asked.inputs is not None and IDS in feeds:
            raise RequestError("--ids and --input both give a prompt", fix="leave one out")
        if asked.ids is None and IDS not in feeds:
            raise RequestError(f"holds no array {IDS!r}", where=str(given), fix="name the prompt's tokens so")
        prompt = feeds[IDS] if asked.ids is None else _parsed(asked.ids)
        read = getattr(session.engine, "decoding", None)
        source = None if read is None or not read.source else feeds.get(read.source)
        begun = time.perf_counter()
        stream = session.stream(
            prompt,
            asked.max_new_tokens,
            temperature=asked.temperature,
            top_k=asked.top_k,
            seed=asked.seed,
            stop_tokens=asked.stops,
            source=source,
        )
        tokens, times = [], []
        for token in stream:
            tokens.append(token)
            times.append(time.perf_counter() - begun)
            if not as_json:
                print(token, end=" ", flush=True)
    if output is not None:
        with writing_file(output) as scratch:
            write_arrays(scratch, {"tokens": np.array(tokens, np.int64)})
    rate = (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else None
    if as_json:
        from edgec.cli.output import print_json

        print_json(
            {
                "prompt": np.asarray(prompt).ravel().tolist(),
                "tokens": tokens,
                "first_token_ms": 1e3 * times[0],
                "tokens_per_second": rate,
                "output": str(output) if output else None,
            }
        )
        return
    print()
    behind = "" if rate is None else f", then {rate:.1f} tokens a second"
    print(f"{len(tokens)} tokens: the first after {1e3 * times[0]:.1f} ms{behind}, measured here")


def _parsed(ids: str) -> list[int]:
    try:
        return [int(number) for number in ids.replace(",", " ").split()]
    except ValueError as error:
        raise RequestError(
            f"--ids {ids!r} are no token numbers", fix="write whole numbers, as 5,6,7"
        ) from error
