"""A module that decides by values is refused where the trace is wrong, and said where it may be."""

import pytest

from edgec.core.errors import JobError

torch = pytest.importorskip("torch")

from edgec.frontends.branches import try_widely  # noqa: E402
from edgec.frontends.torch import from_module  # noqa: E402


class Deciding(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function
        self.fc = torch.nn.Linear(8, 8)

    def forward(self, x, mask=None):
        return self.function(self.fc, x, mask)


def load(function, *more):
    torch.manual_seed(0)
    example = (torch.randn(2, 8), *more)
    return from_module(Deciding(function).eval(), example, spec="test.py:module", name="module", samples=1)


def by_sign(fc, x, _):
    if x.sum() > 0:
        return fc(x)
    return x


def far_away(fc, x, _):
    if x.abs().max() > 6:
        x = x * 6 / x.abs().max()
    return fc(x)


def never(fc, x, _):
    if x.isnan().any():
        raise ValueError("NaN")
    return fc(x)


def both_the_same(fc, x, _):
    positive = x > -100
    if positive.all():
        return fc(x)
    return fc(torch.where(positive, x, x))


def by_padding(fc, x, mask):
    if mask.all():
        return fc(x)
    return fc(x * mask)


def by_padding_harmless(fc, x, mask):
    if mask.sum() > mask.numel() - 3:
        return fc(x * mask)
    return fc(x) * 0 + fc(x * mask)


@pytest.mark.parametrize(
    ("function", "line"), [(by_sign, "if x.sum() > 0:"), (far_away, "if x.abs().max() > 6:")]
)
def test_a_decision_that_changes_what_is_computed_is_refused_with_its_line(function, line):
    with pytest.raises(JobError) as caught:
        load(function)
    assert "test_branches.py:" in str(caught.value)
    assert line in str(caught.value)
    assert "torch.where" in str(caught.value)


def test_a_read_that_decides_nothing_is_not_blamed_for_rounding_far_from_ordinary_inputs():
    def logged(fc, x, _):
        float(x.mean())
        return torch.sin(100 * fc(x))

    (note,) = load(logged).source.notes
    assert "float(x.mean())" in note


def test_a_mask_is_tried_with_padding_and_without():
    with pytest.raises(JobError, match=r"if mask\.all\(\):"):
        load(by_padding, torch.ones(2, 8, dtype=torch.int64))
    (note,) = load(by_padding_harmless, torch.ones(2, 8, dtype=torch.int64)).source.notes
    assert "decided otherwise and the export agrees" in note


def test_a_decision_that_no_input_changed_is_said():
    (note,) = load(never).source.notes
    assert "if x.isnan().any():" in note
    assert "any other way is not in the engine" in note


def test_a_decision_that_changes_nothing_is_said_and_no_more():
    (note,) = load(both_the_same).source.notes
    assert "decided otherwise and the export agrees" in note


def test_a_read_that_spoils_every_export_is_named():
    with pytest.raises(JobError, match=r"test_branches\.py:\d+ \(return fc\(x\) \* float"):
        from_module(
            Deciding(scaled).eval(), torch.randn(2, 8), spec="test.py:module", name="module", samples=2
        )


def scaled(fc, x, _):
    return fc(x) * float(x.max())


def test_a_module_that_cannot_be_followed_is_said():
    def fails(_):
        raise RuntimeError("no such mode")

    trial = try_widely(fails, fails, (), [{}], "test.py:module")
    assert trial is not None
    assert "could not be seen (RuntimeError: no such mode)" in trial.note()
