"""A sweep keeps what is done, runs what is left, and outlives what its compiles do."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading

import pytest

from edgec.core.errors import RequestError
from edgec.sweep import results
from edgec.sweep.sweep import Sweep, on_this_machine


def run(stand, plan, jobs=1):
    told = []
    rows = Sweep(plan, stand.runner).go_on(on_this_machine(jobs), told.append)
    return rows, told


def test_every_cell_is_a_bundle_a_refusal_or_a_failure_with_its_reason(stand):
    plan = stand.plan("good.onnx", "refused.onnx", "bug.onnx", "dies.onnx", "silent.onnx")
    rows, told = run(stand, plan, jobs=2)
    good, refused, bug, dead, silent = rows
    assert sorted(told, key=rows.index) == rows
    assert (good.verdict, good.reason, good.p50, good.low, good.off) == ("verified", "", 2.0, 1.9, 1e-6)
    assert (stand.out / good.bundle).is_dir()
    assert (refused.verdict, refused.bundle) == ("refused", "")
    assert refused.reason == "m.onnx: op Mystery has no kernel; leave it out"
    assert bug.verdict == dead.verdict == silent.verdict == "failed"
    assert "unexpected KeyError" in bug.reason
    assert dead.reason == "the process ended by SIGKILL; half a sente"
    assert silent.reason == "the process ended with status 3; it said nothing"


def test_what_is_done_does_not_run_again_unless_its_file_changed(stand):
    plan = stand.plan("good.onnx", "refused.onnx")
    rows, _ = run(stand, plan)
    before = stand.calls
    assert run(stand, plan) == (rows, [])
    assert stand.calls == before
    (stand.folder / "good.onnx").write_text("another network")
    import edgec.sweep.keys

    edgec.sweep.keys._content.cache_clear()
    _, told = run(stand, plan)
    assert [row.verdict for row in told] == ["verified"]


def test_a_plan_that_grows_runs_what_is_new(stand):
    run(stand, stand.plan("good.onnx"))
    rows, told = run(stand, stand.plan("good.onnx", "good2.onnx", targets=("x86", "coreml")))
    assert (len(rows), len(told)) == (4, 3)


def test_an_interruption_keeps_what_is_done_and_stops_what_runs(stand):
    plan = stand.plan("good.onnx", "slow.onnx", "good2.onnx")

    def interrupt():
        stand.wait_for("begin slow.onnx")
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        run(stand, plan)
    [row] = results.read(stand.out)
    assert row.model.endswith("good.onnx")
    assert "end slow.onnx" not in stand.calls
    assert "begin good2.onnx" not in stand.calls
    assert "1 of 3 cells have run" in (stand.out / "index.html").read_text()


def test_a_device_is_used_by_one_cell_at_a_time(stand):
    plan = stand.plan("held1.onnx", "held2.onnx", devices={"x86": "one-board"})
    run(stand, plan, jobs=2)
    assert [call.split()[0] for call in stand.calls] == ["begin", "end"] * 2


def test_without_a_device_cells_run_at_once(stand):
    run(stand, stand.plan("held1.onnx", "held2.onnx"), jobs=2)
    assert [call.split()[0] for call in stand.calls] == ["begin"] * 2 + ["end"] * 2


def test_results_are_one_table_that_anything_reads(stand):
    rows, _ = run(stand, stand.plan("good.onnx", "refused.onnx"))
    with sqlite3.connect(stand.out / results.FILE) as base:
        counts = dict(base.execute("SELECT verdict, count(*) FROM cells GROUP BY verdict"))
        assert base.execute("SELECT p50 FROM cells WHERE verdict = 'verified'").fetchone() == (2.0,)
    base.close()
    assert counts == {"verified": 1, "refused": 1}
    assert results.read(stand.out) == rows


def test_what_is_no_sweep_is_refused(tmp_path):
    with pytest.raises(RequestError, match="has no results"):
        results.read(tmp_path)
    (tmp_path / results.FILE).write_text("no base at all, but text that is long enough" * 99)
    with pytest.raises(RequestError, match="no sweep's file"):
        results.read(tmp_path)


def test_the_page_links_bundles_and_tells_reasons(stand):
    rows, _ = run(stand, stand.plan("good.onnx", "refused.onnx"))
    page = (stand.out / "index.html").read_text()
    assert f'href="{rows[0].bundle}/report.html"' in page
    assert "op Mystery has no kernel" in page
