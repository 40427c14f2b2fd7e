"""A module runs in float64 with everything that it makes as it runs, and stays as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edgec.frontends.in_float64 import call_in_float64


class Makes(nn.Module):
    """Makes tensors by every way of naming float32, or none."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 8)
        self.register_buffer("table", torch.rand(8))
        self.plain = torch.rand(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        places = torch.arange(0, 8, dtype=torch.float32, device=x.device) / 7
        steps = torch.linspace(0, 1, 8)
        ones = torch.ones(8) / 3
        filled = torch.full((8,), 0.1)
        literal = torch.tensor([0.1] * 8)
        h = self.fc(x) * places + self.table.float().to(torch.float32) * steps
        h = h.to(torch.float32) + ones.type_as(h) * filled + literal * self.plain
        out = torch.zeros(8)
        out += (h**2).mean(0)
        return torch.softmax(out, -1)


def test_everything_that_a_module_makes_is_wide() -> None:
    torch.manual_seed(0)
    module, x = Makes().eval(), torch.randn(3, 8)
    found = call_in_float64(module)(x)
    assert found.dtype == torch.float64

    def right() -> np.ndarray:
        wide = {name: tensor.detach().double().numpy() for name, tensor in module.state_dict().items()}
        number = np.arange(8.0)
        h = (x.double().numpy() @ wide["fc.weight"].T + wide["fc.bias"]) * (number / 7)
        h = h + wide["table"] * (number / 7) + (1 / 3) * 0.1
        h = h + np.float64(np.float32(0.1)) * module.plain.double().numpy()
        logits = (h**2).mean(0)
        return np.exp(logits) / np.exp(logits).sum()

    # `torch.tensor` rounds a literal to float32 before any operation sees it.
    np.testing.assert_allclose(found.numpy(), right(), rtol=1e-12)


def test_the_module_and_its_buffers_are_left_as_they_were() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("total", torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.total += 1.0
            return x * self.total

    module = Counts()
    x = torch.ones(2)
    assert call_in_float64(module)(x).dtype == torch.float64
    assert module.total.dtype == torch.float32
    assert float(module.total) == 0.0
    assert x.dtype == torch.float32


def test_a_module_that_decides_runs_on_either_side_and_as_before_afterwards() -> None:
    class Decides(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cond(x.sum() > 0, lambda t: t / 3, lambda t: t.exp(), (x,))

    module = Decides().eval()
    for x in (torch.rand(4), -torch.rand(4)):
        before = module(x)
        found = call_in_float64(module)(x)
        wide = x.double()
        right = wide / 3 if float(x.sum()) > 0 else wide.exp()
        torch.testing.assert_close(found, right, rtol=1e-14, atol=1e-15)
        torch.testing.assert_close(module(x), before)
    torch.export.export(module, (torch.rand(4),))


def test_a_module_that_stands_in_two_places_keeps_its_parameters() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            block = nn.Linear(4, 4)
            self.one, self.two = nn.ModuleList([block]), nn.ModuleList([block])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.two[0](self.one[0](x))

    module = Twice().eval()
    weight = module.one[0].weight
    assert call_in_float64(module)(torch.rand(1, 4)).dtype == torch.float64
    assert module.one[0].weight is weight
    assert module.two[0].weight is weight
    with pytest.raises(RuntimeError):
        call_in_float64(module)(torch.rand(1, 5))
    assert module.one[0].weight is weight


@pytest.mark.parametrize("kind", ["tied", "convolution", "transformer", "recurrent"])
def test_it_is_what_a_widened_copy_computes(kind: str) -> None:
    import copy

    torch.manual_seed(1)
    if kind == "tied":
        module: nn.Module = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
        module[1].weight = module[0].weight  # type: ignore[index]
        x = torch.randn(2, 8)
    elif kind == "convolution":
        module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.AdaptiveAvgPool2d(1))
        x = torch.randn(1, 3, 9, 9)
    elif kind == "transformer":
        module = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        x = torch.randn(1, 5, 8)
    else:
        module = nn.LSTM(8, 8, batch_first=True)
        x = torch.randn(1, 5, 8)
    module.eval()
    found = call_in_float64(module)(x)
    right = copy.deepcopy(module).double()(x.double())
    found, right = (value[0] if isinstance(value, tuple) else value for value in (found, right))
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, right, rtol=1e-10, atol=1e-12)


class Remembers(nn.Module):
    """Keeps the bias it has computed for its next call, in a dictionary or as an attribute."""

    def __init__(self, in_dictionary: bool) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(4, 4))
        self.in_dictionary = in_dictionary
        self.cache: dict[str, torch.Tensor] = {}
        self.bias: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.in_dictionary:
            if "bias" not in self.cache:
                self.cache["bias"] = self.table * 2
            return nn.functional.linear(x, self.cache["bias"])
        if self.bias is None:
            self.bias = self.table * 2
        return nn.functional.linear(x, self.bias)


@pytest.mark.parametrize("in_dictionary", [True, False])
def test_what_a_module_keeps_for_its_next_call_is_not_of_float64(in_dictionary: bool) -> None:
    module = Remembers(in_dictionary).eval()
    x = torch.randn(2, 4)
    assert call_in_float64(module)(x).dtype == torch.float64
    with torch.no_grad():
        assert module(x).dtype == torch.float32
