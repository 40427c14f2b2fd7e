"""A table's predictions, what they learn, what it offers, and whose tables it refuses."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from edgec.core.errors import RequestError
from edgec.devices.latency_tables import Device, LatencyTable, Place
from edgec.devices.segment_times import Dimension, SegmentTimes, points

HERE = Device("Test CPU", "cpu 1", "openvino fp32 (decomposed)", "openvino 1.0")


def mlp_time(width: int) -> float:
    return 0.1 + width / 256


def head_time(heads: int, there: int) -> float:
    return 0.5 * heads * there


def table() -> LatencyTable:
    """Two blocks of an attention of 4 heads and an MLP of 256; the rest of the network takes 1 ms."""
    wide, branch = Dimension("mlp", 256), Dimension("branch", 1)
    attention = (Dimension("heads", 4), branch)
    segments = (
        SegmentTimes("0.attn", attention, {sizes: head_time(*sizes) for sizes in points(attention)}),
        SegmentTimes("0.mlp", (wide,), {sizes: mlp_time(*sizes) for sizes in points([wide])}),
    )
    places = []
    for block in range(2):
        gone = ((f"attention:{block}", 0), ("depth", block))
        places.append(Place(0, f"{block}.attn", (((f"heads:{block}", -1),), gone)))
        places.append(Place(1, f"{block}.mlp", (((f"mlp:{block}", -1),),)))
    sizes = {"depth": 2}
    for block in range(2):
        sizes |= {f"heads:{block}": 4, f"mlp:{block}": 256, f"attention:{block}": 1}
    base = 1 + 2 * (head_time(4, 1) + mlp_time(256))
    return LatencyTable(
        "measured", HERE, base, segments, tuple(places), sizes, misses={"rank:x": "no segment"}
    )


def test_savings_of_the_segments_add_up() -> None:
    found = table()
    assert found.predict({}) == pytest.approx(found.base)
    assert found.predict({"mlp:0": 128}) == pytest.approx(found.base - 0.5)
    plan = {"mlp:0": 64, "mlp:1": 128, "heads:1": 2, "attention:0": 0}
    assert found.predict(plan) == pytest.approx(found.base - 0.75 - 0.5 - 1.0 - 2.0)
    assert found.predict({"depth": 1}) == pytest.approx(found.base - 2.0)
    assert found.predict({"depth": 1, "attention:1": 0}) == pytest.approx(found.base - 2.0)


def test_a_measured_network_is_told_as_measured_and_moves_its_like() -> None:
    found = table()
    plan = {"mlp:0": 64, "mlp:1": 64}
    before, other = found.predict(plan), found.predict({"mlp:0": 64})
    true = found.base - 0.7 * (found.base - before)  # its savings are worth less than they were alone
    found.correct(plan, true)
    assert found.predict(plan) == pytest.approx(true)
    assert other < found.predict({"mlp:0": 64}) < found.base
    assert found.predict({"mlp:0": 256, **plan}) == pytest.approx(true)


def test_the_factor_of_each_kind_of_segment_is_learnt_from_few_networks() -> None:
    found = table()
    rng = np.random.default_rng(0)

    def drawn() -> dict[str, int]:
        most = {"heads:0": 4, "heads:1": 4, "mlp:0": 256, "mlp:1": 256}
        return {name: int(rng.integers(1, size + 1)) for name, size in most.items()}

    def true(plan: dict[str, int]) -> float:
        heads = sum(head_time(4, 1) - head_time(plan[f"heads:{block}"], 1) for block in range(2))
        widths = sum(mlp_time(256) - mlp_time(plan[f"mlp:{block}"]) for block in range(2))
        return found.base - 0.8 * heads - 1.2 * widths

    others = [drawn() for _ in range(20)]
    before = max(abs(found.predict(plan) / true(plan) - 1) for plan in others)
    for _ in range(6):
        plan = drawn()
        found.correct(plan, true(plan))
    after = max(abs(found.predict(plan) / true(plan) - 1) for plan in others)
    assert after < 0.02 < before / 3


def test_a_measurement_on_a_slower_machine_counts_as_a_share() -> None:
    found = table()
    found.correct({"mlp:0": 64}, 2 * (found.base - 0.75), base=2 * found.base)
    assert found.predict({"mlp:0": 64}) == pytest.approx(found.base - 0.75)


def test_sizes_that_are_no_faster_than_the_next_larger_one_are_not_offered() -> None:
    found = table()
    assert found.levels("mlp:0") == Dimension("mlp", 256).levels()
    assert found.levels("attention:1") == (1, 0)
    assert found.levels("depth") == (2, 1, 0)
    wide = Dimension("mlp", 256)
    badly = {sizes: mlp_time(*sizes) + (0.3 if sizes[0] in (192, 64) else 0) for sizes in points([wide])}
    segments = (found.segments[0], SegmentTimes("0.mlp", (wide,), badly))
    slow = dataclasses.replace(found, segments=segments)
    assert slow.levels("mlp:0") == (256, 224, 160, 128, 96, 32)


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        ({"mlp:7": 3}, "did you mean mlp:"),
        ({"nothing like it": 3}, "made for another network"),
        ({"mlp:0": 300}, "has 256 members"),
        ({"mlp:0": -1}, "has 256 members"),
        ({"rank:x": 1}, "says nothing of rank:x: no segment"),
    ],
)
def test_a_plan_that_the_table_is_not_for_is_refused(kept: dict[str, int], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        table().predict(kept)
    with pytest.raises(RequestError, match=said):
        table().correct(kept, 1.0)


def test_a_table_is_read_back_with_what_it_learnt(tmp_path: Path) -> None:
    found = table()
    found.correct({"mlp:0": 64}, 2.0)
    found.write(tmp_path / "table.json")
    read = LatencyTable.read(tmp_path / "table.json", HERE)
    assert read == found
    assert read.predict({"heads:0": 2, "mlp:0": 128}) == found.predict({"heads:0": 2, "mlp:0": 128})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"identity": "cpu 2", "name": "Other CPU"},
            "made on another device \\(Test CPU\\), not for Other CPU",
        ),
        ({"engine": "ort fp32 (plain)"}, "is of openvino fp32 \\(decomposed\\), not of ort fp32"),
        ({"version": "openvino 2.0"}, "made with version openvino 1.0 of the engine, not openvino 2.0"),
    ],
)
def test_a_table_of_another_device_is_refused(tmp_path: Path, change: dict[str, str], said: str) -> None:
    table().write(tmp_path / "table.json")
    with pytest.raises(RequestError, match=said):
        LatencyTable.read(tmp_path / "table.json", dataclasses.replace(HERE, **change))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"kind": "guessed"}', "null", "\ufffe"])
def test_what_is_no_table_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "table.json"
    path.write_text(text)
    with pytest.raises(RequestError, match="is no latency table"):
        LatencyTable.read(path, HERE)


def test_a_table_with_a_wrong_field_is_refused(tmp_path: Path) -> None:
    fields = table().to_json()
    for change in ({"base_ms": 0}, {"places": [{"segment": 9, "layer": "x", "units": []}]}, {"units": 3}):
        (tmp_path / "table.json").write_text(json.dumps({**fields, **change}))
        with pytest.raises(RequestError, match="is no latency table"):
            LatencyTable.read(tmp_path / "table.json", HERE)
    with pytest.raises(RequestError, match="cannot be read"):
        LatencyTable.read(tmp_path / "missing.json", HERE)
