"""`edgec sweep` on real compiles of a small block."""

from __future__ import annotations

import shutil

import pytest

from edgec.sweep import keys

PLAN = """
models = ["{model}", "{absent}"]
targets = ["x86:ort"]
[options.plain]
precision = "fp32"
"""


@pytest.fixture
def plan(tmp_path, model_file):
    path = tmp_path / "small.toml"
    path.write_text(PLAN.format(model=model_file.name, absent="absent.onnx"))
    return path


def test_a_plan_becomes_bundles_refusals_and_a_comparison(edgec, plan, model_file, tmp_path):
    out = tmp_path / "out"
    done = edgec("sweep", plan, "-o", out, "--json")
    assert done.status == 0
    assert (done.json["verified"], done.json["refused"], done.json["failed"]) == (1, 1, 0)
    good, absent = done.json["rows"]
    assert edgec("verify", out / good["bundle"]).status == 0
    assert "absent.onnx" in absent["reason"]
    assert good["p50"] > 0
    kept = tmp_path / "kept"
    kept.mkdir()
    shutil.copy(out / "results.sqlite", kept)
    same = edgec("sweep", plan, "-o", out, "--against", kept)
    assert (same.status, "nothing changed" in same.out) == (0, True)
    model_file.unlink()
    keys._content.cache_clear()
    worse = edgec("sweep", plan, "-o", out, "--against", kept)
    assert worse.status == 1
    assert "was verified and is refused" in worse.out


def test_wrong_words_are_refused_before_anything_runs(edgec, plan, tmp_path):
    for words, said in [
        ((plan, "--target", "x86"), "a plan has its own targets"),
        (("zoo:vit_digits", "--options", "precision"), "has no value"),
        ((tmp_path / "no.toml",), "cannot be read"),
        ((plan, "--against", tmp_path), "has no results.sqlite"),
        ((plan, "--on", "here:1"), "is no cluster"),
        ((plan, "--cell", 2), "and no cell 2"),
        (("zoo:vit_digits", "--emit-kubernetes"), "takes a plan's file"),
    ]:
        done = edgec("sweep", *words, "-o", tmp_path / "out")
        assert done.status == 2
        assert said in done.err
    assert not (tmp_path / "out").exists()


def test_one_cell_of_a_plan_is_found_by_the_sweep(edgec, plan, tmp_path):
    out = tmp_path / "out"
    one = edgec("sweep", plan, "-o", out, "--cell", 1)
    assert (one.status, one.out.split()[0]) == (0, "refused")
    assert not (out / "results.sqlite").exists()
    jobs = edgec("sweep", plan, "--emit-kubernetes", "--image", "here/edgec:2")
    assert jobs.status == 0
    assert "here/edgec:2" in jobs.out
