"""The loss between a student and its teacher, and a few steps with it."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import torch
from modules import images, vit

from edgec.core.errors import RequestError
from edgec.slim import DistillationLoss, distil, slimmed

DOCS = Path(__file__).resolve().parents[2] / "docs" / "slimming.md"


def hooks(module: torch.nn.Module) -> int:
    return sum(len(layer._forward_hooks) for layer in module.modules())


def test_a_copy_loses_nothing() -> None:
    teacher = vit()
    with DistillationLoss(teacher, copy.deepcopy(teacher), features={"blocks.1": "blocks.1"}) as loss_of:
        assert loss_of(images(4)).item() == pytest.approx(0, abs=1e-6)


def test_the_loss_is_the_divergence_of_the_logits_and_the_difference_of_the_features() -> None:
    teacher, student = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
    data = torch.randn(5, 4)
    with torch.no_grad():
        taught, found = teacher(data).softmax(-1), student(data).softmax(-1)
        expected = (taught * (taught / found).log()).sum(-1).mean()
    with DistillationLoss(teacher, student) as loss_of:
        torch.testing.assert_close(loss_of(data).detach(), expected)
    both = torch.nn.Sequential(teacher), torch.nn.Sequential(student)
    with DistillationLoss(*both, features={"0": "0"}, feature_weight=2.0) as loss_of:
        with torch.no_grad():
            apart = (teacher(data) - student(data)).square().mean() / teacher(data).var()
        torch.testing.assert_close(loss_of(data).detach(), expected + 2 * apart)


def test_gradients_reach_the_student_alone_and_hooks_leave() -> None:
    teacher, student = vit(), vit()
    with torch.no_grad():
        student.head.weight.add_(1)
    loss_of = DistillationLoss(teacher, student, features={"blocks.0": "blocks.1"})
    assert hooks(teacher) == hooks(student) == 1
    loss_of(images(4)).backward()
    assert student.head.weight.grad is not None
    assert all(parameter.grad is None for parameter in teacher.parameters())
    loss_of.close()
    assert hooks(teacher) == hooks(student) == 0


def test_features_that_are_none_are_refused() -> None:
    with pytest.raises(RequestError, match=r"the student has no layer 'blocks\.7'"):
        DistillationLoss(vit(), vit(), features={"blocks.7": "blocks.1"})
    with (
        DistillationLoss(vit(), vit(), features={"blocks.0": "head"}) as loss_of,
        pytest.raises(RequestError, match=r"the student's blocks.0 is \(2, 5, 32\)"),
    ):
        loss_of(images(2))


def test_distilling_lowers_the_loss_of_a_slimmed_module() -> None:
    teacher = vit()
    student = slimmed(teacher, images(1), "mlp=0.25", images(32))
    losses = distil(
        student, teacher, [images(32)], steps=12, learning_rate=1e-3, features={"blocks.1": "blocks.1"}
    )
    assert len(losses) == 12
    assert losses[-1] < 0.7 * losses[0]
    assert not student.training
    assert hooks(student) == 0


def test_distilling_needs_a_batch() -> None:
    with pytest.raises(RequestError, match="no batch"):
        distil(vit(), vit(), [], steps=1, learning_rate=1e-3)


def test_the_page_s_own_example_runs() -> None:
    section = DOCS.read_text("utf-8").partition("## For torch users")[2]
    code = "\n".join(re.findall(r"```python\n(.*?)```", section, re.DOTALL))
    names = {"module": vit(), "images": images(64), "batches": [images(16)] * 3}
    exec(compile(code, str(DOCS), "exec"), names)
    assert names["student"].get_submodule("blocks.0.mlp.0").out_features == 32
