"""The shape of `report.json`: what the compiler writes and the report shows.

Every key of `Report` is written; a section that a run has nothing for is empty, or null where the
type says so. Latencies are milliseconds, layer times microseconds, shares and drops fractions of 1.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

from edgec.runtime.engines import Kind

SCHEMA = 1
"""The schema that this edgec writes, and the newest that it reads."""


LATENCY_FIGURES = (
    *("name", "role", "p50", "p90", "spread", "interval"),
    *("ratio_to_best_baseline", "ratio_interval", "verdict"),
)
"""What the manifest keeps of a `LatencyEntry`."""


class Tensor(TypedDict):
    """One input or output, as `edgec.core.graph.TensorSpec`."""

    name: str
    shape: list[int | str]
    dtype: str
    semantics: str


class Model(TypedDict):
    """Where the model came from (`edgec.core.graph.Source`) and what it is made of."""

    spec: str
    kind: str
    name: str
    sha256: str
    exporter: str
    exporter_reason: str
    weights: str
    notes: list[str]
    parameters: int
    macs: int
    inputs: list[Tensor]
    outputs: list[Tensor]


class Gate(TypedDict):
    """The bounds of a gate, as `edgec.core.numerics.Gate`."""

    scaled: float
    rms: float
    slice_rms: float
    unequal: float
    why: str


class Blame(TypedDict):
    """Where a gate that failed goes wrong first, as `edgec.judging.gates.Blame`."""

    pass_name: str
    source: str
    node: str
    value: str
    scaled: float
    fix: str
    before: str


class SampleDifference(TypedDict):
    """The difference of one output on one sample."""

    sample: int
    output: str
    max_abs: float
    scaled: float
    cosine: float


class GateResult(TypedDict):
    """One gate: the worst difference over all samples and outputs beside its bounds.

    `details` has each sample and output on its own, where the run kept them.
    """

    stage: str
    max_abs: float
    scaled: float
    rms: float
    cosine: float
    output: str
    rounding: float
    beyond: float
    beyond_rms: float
    slice_rms: float
    unequal: float
    near_ties: int
    gate: Gate
    passed: bool
    samples: int
    rounded_inputs: bool
    blame: Blame | None
    details: NotRequired[list[SampleDifference]]


class Numerics(TypedDict):
    """Every gate, in the order they ran: fp32 first, the shipped precision last.

    `kind` is what the engine's own gates are, `ran` what computed in them.
    """

    kind: Kind
    ran: str
    gates: list[GateResult]


class Histogram(TypedDict):
    """How many calls took how long: `counts` of equal parts from `low` to `high`, and how many `beyond`."""

    low: float
    high: float
    counts: list[int]
    beyond: int


class LatencyEntry(TypedDict):
    """One measured engine. All figures are null where it was not measured; `why` says why.

    `blocks` are the medians of the blocks, in milliseconds; `spread` is their range over `p50`; `interval`
    is where the median lies (`edgec.core.timing.median_interval`), null where there were too few blocks.
    `ratio_to_best_baseline` is this latency over the best baseline's (below 1 is faster), `ratio_interval`
    where it lies, and `verdict` what that says of this engine. `drop` is what
    the engine lost on the data that a search looked at, null where it was not scored. `disturbed` is how
    many of the blocks ran while the machine was busy with something else.
    """

    name: str
    role: Literal["chosen", "candidate", "baseline"]
    engine: str
    precision: str
    form: str
    p50: float | None
    p90: float | None
    spread: float | None
    blocks: list[float]
    interval: list[float] | None
    ratio_to_best_baseline: float | None
    ratio_interval: list[float] | None
    verdict: Literal["faster", "slower", "cannot be told apart"] | None
    passed: bool
    why: str
    drop: NotRequired[float | None]
    disturbed: NotRequired[int]
    p99: NotRequired[float | None]
    histogram: NotRequired[Histogram | None]


class Prediction(TypedDict):
    """A latency that nothing measured. `device` is what it is predicted for; `why` how.

    `low` and `high` are the ends of the band that the prediction is good for.
    """

    name: str
    device: str
    p50: float
    why: str
    low: NotRequired[float]
    high: NotRequired[float]


class Latency(TypedDict):
    """What was measured, on which device, and apart from it what is only predicted."""

    measured: bool
    device: str
    blocks: int
    entries: list[LatencyEntry]
    predicted: list[Prediction]


class Accuracy(TypedDict):
    """One score of the source and of the engine on the same held-out data; `drop` is their difference,
    `error` its standard error.

    `kind` is what the engine's score is; the source ran itself. On `unsteady` samples the source's own fp32
    is off from its float64, and only what the engine loses beyond that counts.
    """

    kind: Kind
    metric: str
    source: float
    engine: float
    drop: float
    error: float
    unsteady: NotRequired[int]
    samples: int
    data: str


class Layer(TypedDict):
    """Time of one engine layer, as `edgec.runtime.engine.LayerTime`, in execution order."""

    layer: str
    source: str
    op: str
    microseconds: float


class Missed(TypedDict):
    """A place that looked like a match and was left alone, as `edgec.passes.infra.NearMiss`."""

    node: str
    source: str
    reason: str


class PassStep(TypedDict):
    """What one pass did; `sites` are the source layers where it matched."""

    name: str
    matched: int
    sites: list[str]
    missed: list[Missed]
    nodes_before: int
    nodes_after: int


class Attention(TypedDict):
    """One attention of the neutral graph, as `edgec.passes.inspection.AttentionSite`."""

    source: str
    kind: str
    heads: int | None
    queries: int | None
    keys: int | None
    head_size: int | None
    masked: bool


class TokenSite(TypedDict):
    """Tokens in front of and behind one layer's attention.

    `site` is what a schedule calls it, `layer` the user's name, `sequence` which of the network's sequences
    of tokens it is in.
    """

    site: int
    layer: str
    sequence: int
    r: int
    before: int
    after: int
    protected: int


class Point(TypedDict):
    """A plan on the search's frontier; `ratio` is its latency over the unreduced engine's.

    `settings` has what each axis' option reads back.
    """

    name: str
    settings: dict[str, str]
    ratio: float
    p50: float
    score: float
    drop: float
    error: float
    damage: float
    chosen: bool


class SlimUnit(TypedDict):
    """A unit of the network and how many of its members stay, told by the user's layer."""

    unit: str
    kind: str
    layer: str
    size: int
    kept: int


class Slim(TypedDict):
    """Slimming.

    `asked` is what `--slim` said, `name` what it reads back, `none` where nothing was cut; the rest is as in
    `Tokens`. `kinds` are each kind of unit, cut everywhere alike, as the search measured it.
    """

    asked: str
    name: str
    work: float
    units: list[SlimUnit]
    refused: list[dict[str, Any]]
    kinds: NotRequired[list[dict[str, Any]]]
    latency_table: NotRequired[str | None]
    baseline: dict[str, Any] | None
    frontier: list[Point]
    searched_on: dict[str, Any] | None
    held_out: dict[str, Any] | None
    agreement: dict[str, Any] | None
    padding: dict[str, Any] | None
    gated: bool


class Tokens(TypedDict):
    """Token reduction.

    `asked` is what `--tokens` said, `name` what it reads back, `none` where nothing was reduced; `work` is
    the share of multiply-accumulates that remains; `baseline` is the same engine without reduction, with
    `ratio` of the reduced one's latency to it; `agreement` is the cosine to the source on the bundle's
    samples; `padding` the agreement on inputs without padding; `gated` says whether a budget judged it.
    `before` and `after` are the tokens of all sequences, in front of their first layer and behind their last.
    `methods`, `searched_on` and `held_out` are there after a search; each look of `held_out` has the `ratio`
    to the unreduced engine where that was measured, and is not kept where it is no faster.
    """

    asked: str
    name: str
    method: str
    meaning: str
    schedule: str
    before: int
    after: int
    sites: list[TokenSite]
    refused: list[dict[str, Any]]
    work: float
    baseline: dict[str, Any] | None
    frontier: list[Point]
    methods: NotRequired[list[dict[str, Any]]]
    searched_on: dict[str, Any] | None
    held_out: dict[str, Any] | None
    agreement: dict[str, Any] | None
    padding: dict[str, Any] | None
    gated: bool


class Drawn(TypedDict):
    """What the samples of one input are, as `edgec.core.graph.DrawnInput`."""

    name: str
    what: str


class BranchSite(TypedDict):
    """A place that decides by values: what the samples take there, and the sides that none takes."""

    name: str
    kind: Literal["If", "Loop"]
    taken: list[str]
    missed: list[str]


class BranchPath(TypedDict):
    """One way through all places in words; `share` is that of the inputs which `Branches.shares_of` names."""

    path: str
    share: float
    p50: float | None
    p90: float | None


class Branches(TypedDict):
    """Where the network decides by values, its fastest path first (`edgec.search.branch_latency`)."""

    sites: list[BranchSite]
    tried: int
    shares_of: str
    paths: list[BranchPath]


class Report(TypedDict):
    """`report.json`, whole.

    `device` is the profile of the machine (`edgec.devices.host.HostProfile.to_dict`); `fallbacks`
    are objects that say what was not used, why, what ran instead and what that cost
    (`edgec.targets.base.Fallback`), or sentences; `known_wrong` are
    `edgec.devices.known_wrong.Finding`, each with its `text`; `tokens` and `slim` describe lossy
    steps and are null where none was asked for; `inputs_drawn` says what the samples are, `ranges_from` where
    the ranges that decide precision come from; `branches` is null for a network that never decides by
    values; `files` is path to sha256 of the bundle's files. Once
    another device measured the bundle (`edgec.report.measured`), `device` is that one, `compiled_on` the
    machine that compiled, and `measurements` all that the devices said. `neural_engine` is what is
    predicted of a Core ML package (`edgec.targets.coreml.neural_engine.placement.section`), `greedy` whose
    tokens a decoder's engine chooses (`edgec.core.greedy.Greedy`).
    """

    schema: int
    edgec: str
    command: str
    created: str
    model: Model
    target: str
    device: dict[str, Any]
    engine: str
    precision: str
    form: str
    seed: int
    inputs_drawn: list[Drawn]
    ranges_from: str
    branches: Branches | None
    numerics: Numerics
    latency: Latency
    accuracy: Accuracy | None
    layers: list[Layer]
    passes: list[PassStep]
    attention: NotRequired[list[Attention]]
    fallbacks: list[Any]
    known_wrong: list[dict[str, Any]]
    tokens: Tokens | None
    slim: Slim | None
    tools: dict[str, str]
    files: dict[str, str]
    neural_engine: NotRequired[dict[str, Any]]
    greedy: NotRequired[dict[str, Any]]
    compiled_on: NotRequired[dict[str, Any]]
    measurements: NotRequired[list[dict[str, Any]]]
