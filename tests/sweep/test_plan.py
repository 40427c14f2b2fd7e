"""What a plan says, and what it may not say."""

from __future__ import annotations

import pytest

from edgec.core.errors import RequestError
from edgec.sweep.plan import made, read

PLAN = """
models = ["zoo:vit_digits", "nets/a.onnx", "nets/net.py:make", "hf:checkpoints/b"]
targets = ["x86", "coreml:ios17"]
[options.plain]
precision = "fp32"
[options.reduced]
tokens = "r=8"
calib = "c.npz"
batch = 4
[inputs]
"nets/a.onnx" = ["x:1x3:float32"]
[devices]
x86 = "bench-box"
"""


def test_a_plan_is_models_by_targets_by_options(tmp_path):
    (tmp_path / "p.toml").write_text(PLAN)
    plan = read(tmp_path / "p.toml")
    assert plan.name == "p"
    assert len(plan.cells) == len(set(plan.cells)) == 4 * 2 * 2
    assert len({cell.folder for cell in plan.cells}) == 16
    models = list(dict.fromkeys(cell.model for cell in plan.cells))
    assert models[0] == "zoo:vit_digits"
    assert models[1:] == [
        f"{tmp_path}/nets/a.onnx",
        f"{tmp_path}/nets/net.py:make",
        f"hf:{tmp_path}/checkpoints/b",
    ]
    reduced = next(cell for cell in plan.cells if cell.row == "reduced" and "a.onnx" in cell.model)
    assert reduced.words == (
        *("--tokens", "r=8", "--calib", f"{tmp_path}/c.npz", "--batch", "4"),
        *("--input", "x:1x3:float32"),
    )
    assert reduced.files == (f"{tmp_path}/c.npz",)
    assert {cell.device for cell in plan.cells if cell.target == "x86"} == {"bench-box"}
    assert {cell.device for cell in plan.cells if cell.target != "x86"} == {""}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models = [", "it is no TOML"),
        ("targets = ['x86']", "'models' must be a list of texts"),
        ("models = []\ntargets = ['x86']", "no model in the plan"),
        ("models = ['a', 'a']\ntargets = ['x86']", "the model a is in the plan twice"),
        ("models = ['a']\ntargets = ['x86']\ntarget = 'x86'", "no key is named 'target'"),
        (
            "models = ['a']\ntargets = ['x86']\n[options.o]\nprecison = 'fp32'",
            "no option is named 'precison'",
        ),
        ("models = ['a']\ntargets = ['x86']\n[options]\nprecision = 'fp32'", "must be a table of options"),
        ("models = ['a']\ntargets = ['x86']\n[devices]\narm = 'x'", "'devices' names arm"),
        ("models = ['a']\ntargets = ['x86']\n[devices]\nx86 = '../x'", "must be a name of letters"),
        ("models = ['a']\ntargets = ['x86']\n[inputs]\nb = ['x']", "'inputs' names b"),
    ],
)
def test_what_is_no_plan_is_refused_with_what_it_may_be(tmp_path, text, said):
    (tmp_path / "p.toml").write_text(text)
    with pytest.raises(RequestError, match=said) as refused:
        read(tmp_path / "p.toml")
    assert "p.toml" in str(refused.value)


def test_a_missing_plan_is_told(tmp_path):
    with pytest.raises(RequestError, match="cannot be read"):
        read(tmp_path / "p.toml")


def test_options_make_another_cell():
    rows = {"one": {"precision": "fp32"}, "two": {"precision": "fp16"}}
    one, two = made("p", ["zoo:a"], ["x86"], rows).cells
    assert one.folder != two.folder
    [again] = made("p", ["zoo:a"], ["x86"], {"one": {"precision": "fp16"}}).cells
    assert again.folder not in (one.folder, two.folder)
