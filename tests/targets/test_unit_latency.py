"""Latency tables of networks: on a machine whose times are known, on this one, and from a profile."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnx_ir as ir
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "passes"))
sys.path.insert(0, str(Path(__file__).parent.parent / "passes" / "slim"))
from pass_graphs import i64, weight
from zeroing import cut, graph, units_of

from edgec.core.errors import RequestError
from edgec.core.graph import Graph
from edgec.devices import latency_cache
from edgec.devices.connections.local import LocalConnection
from edgec.devices.latency_tables import Device, Kind
from edgec.devices.profiles import profile
from edgec.passes.slim.units import Unit
from edgec.targets import segment_timer, target_named
from edgec.targets.base import Candidate
from edgec.targets.predicted_timer import PredictedTimer, macs, work_of
from edgec.targets.segment_timer import HostTimer, graph_of
from edgec.targets.timers import timer_for
from edgec.targets.unit_latency import latency_table

Name = TypeVar("Name", bound=Hashable)

KINDS = ("heads", "qk_width", "v_width", "mlp", "attention", "mlp_block", "block", "depth")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def network(depth: int = 3, tokens: Sequence[int] = ()) -> ir.Model:
    """A transformer of some blocks, with a head behind it; with so many tokens in front of each block."""
    heads, width, hidden = 4, 8, 64
    size, lines, weights = heads * width, [], {}
    tokens = tokens or [6] * depth
    for b in range(depth):
        if b and tokens[b] < tokens[b - 1]:
            lines.append(f"c{b} = Slice(s{b}, zero, left{b}, one)")
            weights[f"left{b}"] = i64(tokens[b])
        stream = f"c{b}" if f"left{b}" in weights else f"s{b}"
        lines.append(
            f"""a{b} = LayerNormalization({stream}, gain) p{b} = MatMul(a{b}, w{b})
            q{b}, k{b}, v{b} = Split <axis = -1, num_outputs = 3> (p{b})
            q4{b} = Reshape(q{b}, split{b}) k4{b} = Reshape(k{b}, split{b})
            v4{b} = Reshape(v{b}, split{b})
            qt{b} = Transpose <perm = [0, 2, 1, 3]> (q4{b}) kt{b} = Transpose <perm = [0, 2, 1, 3]> (k4{b})
            vt{b} = Transpose <perm = [0, 2, 1, 3]> (v4{b})
            att{b} = Attention(qt{b}, kt{b}, vt{b}) at{b} = Transpose <perm = [0, 2, 1, 3]> (att{b})
            m{b} = Reshape(at{b}, flat{b}) o{b} = MatMul(m{b}, wo{b}) t{b} = Add({stream}, o{b})
            n{b} = LayerNormalization(t{b}, gain) u{b} = MatMul(n{b}, wu{b}) g{b} = Gelu(u{b})
            d{b} = MatMul(g{b}, wd{b}) s{b + 1} = Add(t{b}, d{b})"""
        )
        weights |= {
            f"split{b}": i64(1, tokens[b], heads, width),
            f"flat{b}": i64(1, tokens[b], size),
            f"w{b}": weight(size, 3 * size, seed=b),
            f"wo{b}": weight(size, size, seed=b + 20),
            f"wu{b}": weight(size, hidden, seed=b + 40),
            f"wd{b}": weight(hidden, size, seed=b + 60),
        }
    body = "\n".join(lines).replace("s0,", "x,")
    ends = f"(float[1, {tokens[0]}, {size}] x) => (float[1, {tokens[-1]}, 5] y)"
    return graph(
        f"{ends} {{ {body} y = MatMul(s{depth}, head) }}",
        gain=np.ones(size, np.float32),
        zero=i64(0),
        one=i64(1),
        head=weight(size, 5, seed=99),
        **weights,
    )


def units(model: ir.Model) -> list[Unit]:
    return [unit for unit in units_of(model).values() if unit.kind in KINDS]


@dataclasses.dataclass
class KnownTimes:
    """A machine on which a run takes a while, and a microsecond more for a thousand products.

    Attributes:
        identity: tells it from another.
        timed: how many networks it was asked for.
    """

    identity: str = "machine"
    kind: Kind = "measured"
    timed: int = 0

    @property
    def device(self) -> Device:
        return Device("a known machine", self.identity, "known", "1")

    def times(self, networks: Mapping[Name, Graph]) -> dict[Name, tuple[float, float]]:
        self.timed += len(networks)
        return {name: (self.of(each), 0.0) for name, each in networks.items()}

    def of(self, network: Graph) -> float:
        return 0.02 + 1e-6 * sum(item.macs for item in work_of(network.model, 4))


def test_a_plan_that_cuts_everything_takes_what_the_cut_network_does() -> None:
    model = network()
    found, timer = units(model), KnownTimes()
    table = latency_table(graph_of(model), found, timer)
    assert table.kind == "measured"
    assert table.base == pytest.approx(timer.of(graph_of(model)))
    rng = np.random.default_rng(0)
    widths = [unit for unit in found if not unit.branches]
    wholes = [unit for unit in found if unit.kind in ("attention", "mlp_block")]
    assert len(widths) == 12
    assert len(wholes) == 6
    for _ in range(12):
        kept = {unit.name: int(rng.integers(1, unit.size // unit.step + 1)) * unit.step for unit in widths}
        kept |= {unit.name: int(rng.random() > 0.2) for unit in wholes}
        smaller = cut(model, units_of(model), {name: list(range(count)) for name, count in kept.items()})
        assert table.predict(kept) == pytest.approx(timer.of(graph_of(smaller)), rel=0.03)


@pytest.mark.parametrize("kind", ["attention", "mlp_block", "block"])
def test_whole_parts_save_what_they_take(kind: str) -> None:
    model = network()
    timer = KnownTimes()
    table = latency_table(graph_of(model), units(model), timer)
    unit = next(unit for unit in units(model) if unit.kind == kind)
    without = cut(model, units_of(model), {unit.name: []})
    assert table.predict({unit.name: 0}) == pytest.approx(timer.of(graph_of(without)), rel=0.02)
    assert table.levels(unit.name) == (1, 0)


def test_equal_blocks_are_timed_once_and_a_known_table_not_at_all() -> None:
    deep, shallow = KnownTimes(), KnownTimes()
    latency_table(graph_of(network(depth=6)), units(network(depth=6)), deep)
    latency_table(graph_of(network(depth=4)), units(network(depth=4)), shallow)
    # The segments are those of the deeper network; the whole one and its plans are not.
    assert shallow.timed < deep.timed / 3
    again = KnownTimes()
    table = latency_table(graph_of(network(depth=6)), units(network(depth=6)), again)
    assert again.timed == 0
    assert len(table.places) == 12
    other = KnownTimes("another machine")
    latency_table(graph_of(network(depth=6)), units(network(depth=6)), other)
    assert other.timed == deep.timed
    assert len(latency_cache.kept()) == 2
    anew = KnownTimes()
    latency_table(graph_of(network(depth=6)), units(network(depth=6)), anew, again=True)
    assert anew.timed == deep.timed


def test_segments_with_somewhat_fewer_tokens_are_timed_whole_only() -> None:
    reduced = network(depth=6, tokens=[20, 18, 16, 16, 8, 8])
    timer = KnownTimes()
    table = latency_table(graph_of(reduced), units(reduced), timer)
    plain = KnownTimes("another machine")
    latency_table(graph_of(network(depth=6)), units(network(depth=6)), plain)
    assert timer.timed < 3 * plain.timed
    assert {len(segment.times) for segment in table.segments} != {1}
    mlp = [unit.name for unit in units(reduced) if unit.kind == "mlp"]
    kept = dict.fromkeys(mlp, 16)
    smaller = cut(reduced, units_of(reduced), {name: list(range(count)) for name, count in kept.items()})
    assert table.predict(kept) == pytest.approx(timer.of(graph_of(smaller)), rel=0.03)
    assert table.predict({mlp[0]: 16}) < table.predict({mlp[5]: 16}) < table.base


def test_a_unit_that_cannot_be_cut_is_told_and_leaves_the_others() -> None:
    model = network()
    found = units(model)
    broken = next(unit for unit in found if unit.kind == "mlp")
    other = dataclasses.replace(broken.activations[0], value="of another graph")
    wrong = dataclasses.replace(broken, activations=(*broken.activations, other))
    given = [wrong if unit is broken else unit for unit in found if not unit.branches]
    alone = latency_table(graph_of(model), given, KnownTimes())
    assert broken.name in alone.misses
    assert all(name.startswith("mlp:") for name in alone.misses)
    with pytest.raises(RequestError, match=r"says nothing of .* cannot be cut to any"):
        alone.predict({broken.name: 16})
    heads = next(unit for unit in given if unit.kind == "heads")
    assert alone.predict({heads.name: 1}) < alone.base


def test_this_machine_times_what_its_engines_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment_timer, "_BLOCKS", 2)
    monkeypatch.setattr(segment_timer, "_BLOCK_SECONDS", 0.002)
    model = network(depth=2)
    target = target_named("x86:ort")
    candidate = target.candidates(graph_of(model), "fp32")[0]
    timer = timer_for(target, candidate)
    assert isinstance(timer, HostTimer)
    mlp = [unit for unit in units(model) if unit.kind == "mlp"]
    table = latency_table(graph_of(model), mlp, timer)
    assert table.base > 0
    assert table.device.engine == candidate.name
    assert table.device.version.startswith("ort ")
    assert all(time >= 0 for segment in table.segments for time in segment.times.values())
    assert table.predict({mlp[0].name: mlp[0].size // 2}) > 0


def test_a_device_that_is_not_connected_is_predicted_and_said_to_be() -> None:
    model = network()
    target = target_named("jetson:orin-nano-8gb")
    timer = timer_for(target, Candidate("tensorrt", "fp16", "TensorRT"))
    table = latency_table(graph_of(model), units(model), timer)
    assert table.kind == table.to_json()["kind"] == "predicted"
    assert "Orin Nano" in table.device.name
    mlp = next(unit for unit in units(model) if unit.kind == "mlp")
    assert table.predict({mlp.name: mlp.size // 2}) < table.base
    phone = timer_for(
        target_named("coreml"), Candidate("coreml", "fp16", "Core ML"), profile=profile("iphone-15")
    )
    assert isinstance(phone, PredictedTimer)
    assert latency_table(graph_of(model), units(model), phone).kind == "predicted"


def test_what_cannot_be_timed_is_refused() -> None:
    x86, coreml = target_named("x86:ort"), target_named("coreml")
    exported = Candidate("ort", "fp32", "exported")
    package = Candidate("coreml", "fp16", "Core ML")
    with pytest.raises(RequestError, match="exporter's own file"):
        timer_for(x86, exported)
    with pytest.raises(RequestError, match="timed on this machine"):
        timer_for(x86, Candidate("ort", "fp32", "plain"), connection=LocalConnection())
    with pytest.raises(RequestError, match="name its profile"):
        timer_for(coreml, package)
    with pytest.raises(RequestError, match="not timed over a connection"):
        timer_for(coreml, package, connection=LocalConnection())
    shape = ir.Shape([1, "n", 4])
    value = ir.Value(name="x", shape=shape, type=ir.TensorType(ir.DataType.FLOAT))
    node = ir.Node("", "Relu", [value])
    node.outputs[0].shape, node.outputs[0].type = shape, value.type
    with pytest.raises(RequestError, match="shape of `x` is open"):
        graph_of(
            ir.Model(ir.Graph([value], node.outputs, nodes=[node], opset_imports={"": 23}), ir_version=11)
        )


def test_products_are_counted() -> None:
    model = graph(
        """(float[2, 3, 8, 8] x) => (float[2, 10] y) {
            c = Conv <pads = [1, 1, 1, 1]> (x, k)
            f = Flatten(c)
            y = Gemm(f, w)
        }""",
        k=weight(4, 3, 3, 3),
        w=weight(256, 10),
    )
    counts = {node.op_type: macs(node) for node in model.graph}
    assert counts == {"Conv": 2 * 4 * 64 * 27, "Flatten": 0, "Gemm": 2 * 256 * 10}
    attention = next(node for node in network(depth=1).graph if node.op_type == "Attention")
    assert macs(attention) == 4 * 6 * 6 * (8 + 8)
