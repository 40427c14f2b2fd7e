"""Every planted fault is noticed by the tests that its table names."""

from __future__ import annotations

import dataclasses

import pytest
from planting import ROOT, Fault, Nursery, read_faults

FAULTS = read_faults()
AREAS = ("passes/", "passes/precision/", "passes/tokens/", "plugins/", "frontends/", "edgec/")
AREAS += tuple(f"targets/{name}/" for name in ("x86", "jetson", "rtx", "coreml", "coreml/checker"))


@pytest.fixture(scope="module")
def nursery(tmp_path_factory):
    grown = Nursery(tmp_path_factory.mktemp("faults"))
    yield grown
    grown.close()


@pytest.mark.parametrize(
    "fault",
    [pytest.param(one, id=one.name, marks=() if one.quick else pytest.mark.full) for one in FAULTS],
)
def test_a_planted_fault_is_noticed(nursery, fault):
    verdict = nursery.try_out(fault)
    assert verdict.noticed, f"{fault.name}: {fault.breaks}. Nothing noticed it: {verdict.said}"


def test_the_table():
    assert len(FAULTS) >= 120
    assert sum(fault.quick for fault in FAULTS) >= len(FAULTS) // 10
    for area in AREAS:
        assert any(fault.file.startswith(area) for fault in FAULTS), area
    for fault in FAULTS:
        assert fault.breaks, fault.name
        for test in fault.tests:
            assert (ROOT / test.split("::")[0]).is_file(), f"{fault.name} names {test}"


def test_every_fault_still_applies():
    for fault in FAULTS:
        fault.planted((ROOT / fault.file).read_text(encoding="utf-8"))


SAMPLE = Fault(
    name="sample",
    breaks="an op of two kinds",
    file="edgec/core/op_traits.py",
    find="    return next((name for name, ops in KINDS.items() if op_type in ops), None)",
    put="    return None",
    tests=("tests/core/test_op_traits.py::test_every_op_is_of_one_kind_or_has_a_reason",),
)


def test_a_fault_is_taken_out_again(nursery):
    path = nursery.tree / SAMPLE.file
    before = path.read_text(encoding="utf-8")
    assert nursery.try_out(SAMPLE).noticed
    assert path.read_text(encoding="utf-8") == before
    found = nursery.run(SAMPLE.tests)
    assert found["failures"] == []
    assert found["passed"] == 2


@pytest.mark.parametrize(
    "put", ["    return nothing_of_this_name", "    return (", "    import no_such_room"]
)
def test_a_slip_of_the_pen_is_not_a_fault(nursery, put):
    verdict = nursery.try_out(dataclasses.replace(SAMPLE, put=put))
    assert not verdict.noticed
    assert "Error" in verdict.said


def test_a_fault_that_nothing_notices_is_told(nursery):
    verdict = nursery.try_out(dataclasses.replace(SAMPLE, put=SAMPLE.find + "  # the same"))
    assert not verdict.noticed
    assert verdict.said == "2 tests passed"


def test_a_test_that_is_not_there_is_told(nursery):
    verdict = nursery.try_out(dataclasses.replace(SAMPLE, tests=("tests/core/test_op_traits.py::test_none",)))
    assert not verdict.noticed
    assert "could not be run" in verdict.said


def test_a_fault_that_no_longer_applies_is_told_by_name():
    with pytest.raises(
        ValueError, match="'sample' does not apply: its text occurs 0 times in edgec/core/op_"
    ):
        SAMPLE.planted("another text")
    with pytest.raises(ValueError, match="occurs 2 times"):
        SAMPLE.planted(SAMPLE.find * 2)
    with pytest.raises(ValueError, match="changes nothing"):
        dataclasses.replace(SAMPLE, put=SAMPLE.find).planted(SAMPLE.find)
