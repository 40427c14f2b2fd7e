"""What Python reads of the inputs' values is recorded, with its line; what it reads of weights is not."""

import pytest

torch = pytest.importorskip("torch")

from edgec.frontends.value_reads import recorded  # noqa: E402


def places(function, x):
    with recorded({"x": x}) as reads:
        function(x)
    return [read.place.text for read in reads if read.by_code]


WEIGHT = torch.ones(4)


def reads_inputs(x):
    y = x.view(-1) * WEIGHT
    if y.sum() > 0:
        float(y.max())
    y.detach().numpy()
    return y[0].item(), y.tolist()


def reads_weights(x):
    if WEIGHT.all() and x.shape[0] > 1:
        return x * float(WEIGHT[0])
    return x


def writes_and_reads(x):
    kept = torch.zeros(4)
    kept[:2] = x[:2]
    return bool(kept.any())


def test_every_way_to_read_is_seen_in_order():
    found = places(reads_inputs, torch.ones(4))
    assert found[:3] == ["if y.sum() > 0:", "float(y.max())", "y.detach().numpy()"]
    assert set(found[3:]) == {"return y[0].item(), y.tolist()"}


def test_weights_and_shapes_are_no_reads():
    assert places(reads_weights, torch.ones(4)) == []


def test_what_is_written_in_place_depends_too():
    assert places(writes_and_reads, torch.ones(4)) == ["return bool(kept.any())"]


def test_a_size_that_depends_on_values_is_read_by_torch():
    x = torch.tensor([1.0, 0.0])
    with recorded({"x": x}) as reads:
        x.nonzero()
    assert [(read.by_code, read.value) for read in reads] == [(False, ((1, 1),))]


def test_a_place_names_no_folder_of_this_machine():
    x = torch.ones(4)
    with recorded({"x": x}) as reads:
        reads_inputs(x)
    assert str(reads[0].place).startswith("test_value_reads.py:")
