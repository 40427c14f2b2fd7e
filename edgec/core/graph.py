"""The graph that moves through the compiler: an ONNX model and what ONNX cannot say about it."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:  # a device that only runs a bundle has no onnx_ir
    import onnx_ir as ir

    from edgec.core.branches import Branches
    from edgec.core.decoder import Decoder

from edgec.core.numerics import Expected, Gate, roundings_only
from edgec.core.ties import Ties

_logger = logging.getLogger("edgec.core")

Arrays = dict[str, np.ndarray]
"""Tensors by name: the feeds or the results of one run."""

Semantics = Literal["image", "tokens", "mask", "features", "unknown"]


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """One input or output.

    Attributes:
        name: the tensor's name in the graph.
        shape: sizes; a string is a dimension left open by name, None for the whole an unknown rank.
        dtype: a numpy dtype name (`float32`, `int64`, `bool`, …).
        semantics: what the values mean, as far as the source tells.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: str
    semantics: Semantics = "unknown"

    @property
    def is_fixed(self) -> bool:
        """Whether every dimension has a size."""
        return all(isinstance(size, int) for size in self.shape)


@dataclasses.dataclass(frozen=True)
class OpenSize:
    """What an open dimension may be.

    Attributes:
        low: the smallest size.
        high: the largest size.
        choices: every size there is, ascending; empty where all from `low` to `high` are.
    """

    low: int
    high: int
    choices: tuple[int, ...] = ()

    def __contains__(self, size: object) -> bool:
        if self.choices:
            return size in self.choices
        return isinstance(size, int) and self.low <= size <= self.high

    def __str__(self) -> str:
        return "|".join(map(str, self.choices)) if self.choices else f"{self.low}..{self.high}"


@dataclasses.dataclass(frozen=True)
class DrawnInput:
    """What the examples of one input are.

    Attributes:
        name: the input.
        what: the values in words, `N(0, 1)` or `0…30521`.
    """

    name: str
    what: str

    def __str__(self) -> str:
        return f"{self.name} {self.what}"


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a graph came from.

    Attributes:
        spec: what the user named, `timm:deit_tiny_patch16_224` or a file's name.
        kind: `onnx`, `torch`, `timm`, `transformers` or `zoo`.
        name: short name, used for the bundle's folder.
        sha256: hash of the model's structure and weights.
        exporter: `none` for an ONNX file, else `dynamo` or `torchscript`.
        exporter_reason: why that exporter; with what the other one failed.
        weights: whose weights these are, in words.
        notes: anything the user should read, one sentence each; shown in the report.
    """

    spec: str
    kind: str
    name: str
    sha256: str
    exporter: str = "none"
    exporter_reason: str = ""
    weights: str = "from the file"
    notes: tuple[str, ...] = ()


class ExactSource:
    """A source that runs in float64 and remembers what it computed: every gate asks for the same samples.

    Args:
        run: runs it on feeds.
        feeds: what it is tried on at once.

    Raises:
        Exception: whatever the source raises on these.
    """

    def __init__(self, run: Callable[[Mapping[str, np.ndarray]], Arrays], feeds: Arrays) -> None:
        self._run = run
        self._known = {_digest(feeds): run(feeds)}

    def __call__(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        """Its outputs in float64 by name; none where it does not run on these feeds."""
        key = _digest(feeds)
        if key not in self._known:
            self._known[key] = self.once(feeds)
        return self._known[key]

    def once(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        """Likewise, and not remembered."""
        try:
            return self._run(feeds)
        except Exception as error:  # whatever the source raises
            _logger.debug("the source does not run in float64", exc_info=error)
            return {}


def _digest(feeds: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(feeds):
        array = np.ascontiguousarray(feeds[name])
        digest.update(f"{name}{array.dtype}{array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


@dataclasses.dataclass
class Graph:
    """A model on its way through the compiler.

    Attributes:
        model: the ONNX model (opset `dialect.ONNX_OPSET` once a frontend has returned it). Every
            node carries `dialect.SOURCE_KEY` in its metadata.
        source: where it came from.
        inputs: the inputs, in the graph's order.
        examples: feeds, one dict a sample, distinct; the first is typical, and latency is measured on it.
        references: what the source itself computed on each of `examples`, in the same order.
        ties: where it decides between scores, likewise; empty where no output comes of a decision.
        run_source: runs the untouched source on feeds; used for accuracy and for benchmarks.
        run_exact: runs it in float64; None where it cannot, or where the references are not its own.
        run_reduced: runs what the references are of, where something was taken away; else None.
        exported: path of the exporter's own, untouched ONNX file; the baseline of benchmarks.
        imported: the model as its frontend gave it, before any pass; None where no pass has run.
        is_reduced: whether something was taken away, so that `exported` computes more and is no form of it.
        preprocessing: how raw data becomes an input, per input name (`mean`, `std`, `size`, …).
        labels: class names where the source has them.
        calibration: feeds as the model will meet them, for the ranges of a lower precision; empty where
            the user gave none.
        ranges_from: where the ranges that decide precision come from, in words.
        drawn: what the examples are, by input.
        branches: where the graph decides by values which of its parts run; None where it never does.
        gates: bounds by precision for engines of this graph, where they are not `numerics.GATES`.
        open_sizes: what the dimensions that the user keeps open may be, by name; one that is not among
            them may be anything.
        decoder: of a graph that is one step of a decoder, what its generations are.
        engine_outputs: what an engine of the graph gives, where that is not what the graph does.
    """

    model: ir.Model
    source: Source
    inputs: tuple[TensorSpec, ...]
    examples: list[Arrays]
    references: list[Arrays]
    ties: list[Ties] = dataclasses.field(default_factory=list)
    run_source: Callable[[Mapping[str, np.ndarray]], Arrays] | None = None
    run_exact: ExactSource | None = None
    run_reduced: Callable[[Mapping[str, np.ndarray]], Arrays] | None = None
    exported: str | None = None
    imported: ir.Model | None = None
    is_reduced: bool = False
    preprocessing: dict[str, dict[str, object]] = dataclasses.field(default_factory=dict)
    labels: tuple[str, ...] = ()
    calibration: tuple[Arrays, ...] = ()
    ranges_from: str = "drawn inputs"
    drawn: tuple[DrawnInput, ...] = ()
    branches: Branches | None = None
    gates: dict[str, Gate] = dataclasses.field(default_factory=dict)
    open_sizes: dict[str, OpenSize] = dataclasses.field(default_factory=dict)
    decoder: Decoder | None = None
    engine_outputs: tuple[TensorSpec, ...] = ()

    @property
    def expected(self) -> Expected:
        """What the source computed on the examples."""
        exact = [self.run_exact(feeds) for feeds in self.examples] if self.run_exact is not None else []
        return Expected(self.references, roundings_only(self.references, exact), self.ties)

    def expected_of_rounded(self, precision: str) -> Expected | None:
        """What the source computed, and how far each number moves on inputs as a precision knows them.

        An engine in fp16 or bf16 cannot know its inputs better than that, nor what it makes of them. What a
        rounding of the inputs moves in the source itself (a file that quantises, a division by little, of a
        reduced graph the choice between two tokens that are nearly equal) no such engine is to blame for, at
        that very place. The inputs are rounded, and moved at random by up to four roundings some times: as
        far as an engine's own roundings reach. The farthest move counts.

        Args:
            precision: `fp32`, `fp16` or `bf16`.

        Returns:
            None where nothing is rounded: no input is of float32, or the source cannot be run.
        """
        floats = {spec.name for spec in self.inputs if spec.dtype == "float32"}
        run = self.run_reduced if self.is_reduced else self.run_source
        if run is None or not floats:
            return None
        moves = moved_by_rounding(run, self.examples, self.references, floats, precision)
        if moves is None:
            return None
        return Expected(self.references, ties=self.ties, moves=moves)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs, in the graph's order."""
        return self.engine_outputs or tuple(tensor_spec(value) for value in self.model.graph.outputs)

    def by_generations(self, encoder: Graph | None) -> Graph:
        """The graph of a decoder's step, fed and judged as its engines are: by whole generations.

        Args:
            encoder: of an encoder-decoder, the neutral graph of its encoder.
        """
        decoder = self.decoder
        assert decoder is not None
        return dataclasses.replace(
            self,
            inputs=decoder.inputs,
            engine_outputs=decoder.outputs,
            examples=decoder.generations,
            references=decoder.references,
            ties=[],
            run_source=decoder.run,
            run_exact=decoder.run_exact,
            drawn=decoder.drawn,
            exported=None,
            open_sizes={},
            decoder=dataclasses.replace(decoder, encoder=encoder),
        )

    def with_examples(self, examples: list[Arrays]) -> Graph:
        """The same graph with other examples and what the source, which must be there, computes on them."""
        assert self.run_source is not None
        references = [self.run_source(feeds) for feeds in examples]
        return dataclasses.replace(self, examples=examples, references=references, ties=[])

    def with_model(self, model: ir.Model) -> Graph:
        """The same graph around another model."""
        return dataclasses.replace(self, model=model)

    def clone(self) -> Graph:
        """A copy whose model can be edited without touching this one; tensors are shared."""
        return self.with_model(self.model.clone())


ROUNDINGS = 12
"""Times that inputs are rounded, the first to the nearest: enough that what a rounding may flip does flip,
and that no number that moves is taken for one that hardly does."""

_REACH = 4.0
"""Roundings by which inputs are moved: an engine rounds its weights and all that lies between as well."""


def moved_by_rounding(
    run: Callable[[Mapping[str, np.ndarray]], Arrays],
    examples: Sequence[Arrays],
    references: Sequence[Arrays],
    floats: Collection[str],
    precision: str,
) -> list[Arrays] | None:
    """How far each number of a network's outputs moves where its inputs are rounded.

    Args:
        run: runs the network.
        examples: feeds.
        references: its outputs on them.
        floats: the float32 inputs.
        precision: `fp32`, `fp16` or `bf16`: what inputs are rounded to, and moved by some roundings of.

    Returns:
        the farthest moves, float32 in the outputs' shapes, a mapping an example; None where the network does
        not run on moved inputs.
    """
    moves: list[Arrays] = [
        {name: np.zeros(array.shape, np.float32) for name, array in reference.items() if _is_real(array)}
        for reference in references
    ]
    for draw in range(ROUNDINGS):
        for feeds, reference, far in zip(examples, references, moves, strict=True):
            moved = {
                name: _rounded(array, precision, draw) if name in floats else array
                for name, array in feeds.items()
            }
            try:
                found = run(moved)
            except Exception as error:  # whatever the source raises
                _logger.debug("the source does not run on rounded inputs", exc_info=error)
                return None
            for name, farthest in far.items():
                if found[name].shape == farthest.shape:
                    with np.errstate(invalid="ignore"):
                        apart = np.abs(found[name].astype(np.float32) - reference[name])
                    far[name] = np.fmax(farthest, np.where(np.isfinite(apart), apart, 0.0))
    return moves


def _is_real(array: np.ndarray) -> bool:
    return np.issubdtype(array.dtype, np.floating)


def _rounded(array: np.ndarray, precision: str, draw: int) -> np.ndarray:
    """A float32 array in a precision, or moved by some roundings of it; itself where it leaves the range."""
    import ml_dtypes

    kind = {"fp32": np.float32, "fp16": np.float16, "bf16": ml_dtypes.bfloat16}[precision]
    if draw:
        unit = _REACH * float(ml_dtypes.finfo(kind).eps)
        array = array * (1 + unit * np.random.default_rng(draw).uniform(-1, 1, array.shape)).astype(
            np.float32
        )
    with np.errstate(over="ignore"):
        rounded = array.astype(kind).astype(np.float32)
    return rounded if np.array_equal(np.isfinite(rounded), np.isfinite(array)) else array


def tensor_spec(value: ir.Value, semantics: Semantics = "unknown") -> TensorSpec:
    """The spec of a graph input or output.

    Raises:
        ValueError: the value has no name, dtype or shape.
    """
    if value.name is None or value.dtype is None or value.shape is None:
        raise ValueError(f"value {value.name!r} has no name, dtype or shape")
    shape = tuple(
        size if isinstance(size, int) else (size.value or f"{value.name}_{axis}")
        for axis, size in enumerate(value.shape)
    )
    return TensorSpec(value.name, shape, value.dtype.numpy().name, semantics)
