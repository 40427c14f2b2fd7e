"""Bundles as models that the server has."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from edgec.core.errors import JobError, RequestError
from edgec.core.graph import Arrays, TensorSpec
from edgec.core.numerics import compare
from edgec.runtime.feeds import fitted
from edgec.runtime.session import Session, load
from edgec.runtime.verification import gate_of
from edgec.serving.model import Model, Tensor, address_name
from edgec.serving.protocol import datatype
from edgec.serving.rows import planned

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)


@contextlib.contextmanager
def opened(bundles: Sequence[str], batching: bool = True, key: Path | None = None) -> Iterator[list[Model]]:
    """Open bundles for serving, each tried once on its own sample.

    Args:
        bundles: paths, or `NAME=PATH`; without a name a model has its own.
        batching: whether requests may share a run where their rows allow it.
        key: a public key in PEM, by whose owner all must be signed.

    Raises:
        RequestError: a name is none or is taken, or there is no bundle; as `load` does.
        JobError: a model does not run its own sample.
    """
    with contextlib.ExitStack() as stack:
        models: list[Model] = []
        for text in bundles:
            name, path = _named(text)
            session = stack.enter_context(load(path, key=key))
            name = name or address_name(session.manifest["model"]["name"])
            if not _NAME.fullmatch(name):
                raise RequestError(
                    f"{name!r} does not make a part of an address", where=path, fix=f"serve NAME={path}"
                )
            if any(model.name == name for model in models):
                raise RequestError(
                    f"another model is called {name!r}",
                    where=path,
                    fix=f"serve NAME={path}, with another name",
                )
            models.append(model_of(session, name, batching))
        yield models


def model_of(session: Session, name: str, batching: bool) -> Model:
    """An open bundle as a model.

    Raises:
        RequestError: the protocol has no name for the dtype of an input or output.
        JobError: it does not run its own sample.
    """
    samples = session.bundle.samples()[0]
    try:
        session.run(samples[0])
    except Exception as error:
        raise JobError(
            f"the model does not run its own sample ({error})",
            where=str(session.bundle.path),
            fix="compile it again on this machine",
        ) from error
    for spec in (*session.inputs, *session.outputs):
        try:
            datatype(spec.dtype)
        except ValueError as error:
            raise RequestError(
                f"{spec.name!r} cannot be sent: {error}",
                where=str(session.bundle.path),
                fix="compile it otherwise",
            ) from error
    shapes = [spec.shape for spec in (*session.inputs, *session.outputs)]
    rows = planned(shapes, session.run, samples, _agreement(session)) if batching else None
    specs = session.inputs if rows is None else tuple(map(_of_any_rows, session.inputs))
    manifest = session.manifest
    return Model(
        name,
        str(manifest["sha256"])[:12],
        f"edgec_{manifest.get('engine', session.engine.description.kind)}",
        tuple(map(_tensor, specs)),
        tuple(map(_tensor, session.outputs if rows is None else map(_of_any_rows, session.outputs))),
        _fitting(specs, None if rows is None else rows.most, name),
        session.engine.run,
        rows,
    )


def _fitting(
    specs: Sequence[TensorSpec], most_rows: int | None, name: str
) -> Callable[[Mapping[str, np.ndarray]], Arrays]:
    """What holds a request to the inputs."""

    def fit(feeds: Mapping[str, np.ndarray]) -> Arrays:
        arrays = fitted(feeds, specs)
        rows = len(next(iter(arrays.values()))) if most_rows is not None else 1
        if most_rows is not None and not 1 <= rows <= most_rows:
            raise RequestError(f"{name} takes 1 to {most_rows} rows a request, and this one has {rows}")
        return arrays

    return fit


def _agreement(session: Session) -> Callable[[Mapping[str, np.ndarray], Mapping[str, np.ndarray]], bool]:
    """Whether outputs are the same under the gate that the bundle was shipped under.

    Kernels of another size sum in another order, and a scale of a whole tensor sees the other rows: company
    may move a result by rounding, and not by more than the engine may differ from its source.
    """
    gate = gate_of(session.bundle)

    def agree(actual: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> bool:
        try:
            return not gate.broken(compare([dict(expected)], [dict(actual)]))
        except ValueError:
            return False

    return agree


def _of_any_rows(spec: TensorSpec) -> TensorSpec:
    first = spec.shape[0]
    rows = first if isinstance(first, str) else "rows"
    return TensorSpec(spec.name, (rows, *spec.shape[1:]), spec.dtype, spec.semantics)


def _tensor(spec: TensorSpec) -> Tensor:
    sizes = tuple(size if isinstance(size, int) else -1 for size in spec.shape)
    return Tensor(spec.name, sizes, np.dtype(spec.dtype).name)


def _named(text: str) -> tuple[str, str]:
    """Name and path of `NAME=PATH`; a path that is there as it stands has no name."""
    name, equals, path = text.partition("=")
    return (name, path) if equals and not Path(text).exists() else ("", text)
