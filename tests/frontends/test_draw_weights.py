"""Drawn weights leave no layer that could be wrong without anyone seeing it."""

import copy

import pytest

torch = pytest.importorskip("torch")

from edgec.frontends.draw_weights import draw_weights  # noqa: E402


class Invisible(torch.nn.Module):
    """What fresh models hide: a tiny layer scale, a zero residual, zero tables, trivial statistics."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.bn = torch.nn.BatchNorm2d(8)
        self.cls_token = torch.nn.Parameter(torch.full((1, 1, 8), 1e-6))
        self.pos_embed = torch.nn.Parameter(torch.zeros(1, 17, 8))
        self.norm = torch.nn.LayerNorm(8)
        self.fc = torch.nn.Linear(8, 8)
        self.gamma = torch.nn.Parameter(torch.full((8,), 1e-6))
        self.relative_position_bias_table = torch.nn.Parameter(torch.zeros(17, 17))
        self.head = torch.nn.Linear(8, 5)
        self.register_buffer("index", torch.arange(17))
        torch.nn.init.trunc_normal_(self.fc.weight, std=0.02)
        torch.nn.init.zeros_(self.fc.bias)
        torch.nn.init.zeros_(self.head.weight)

    def forward(self, x):
        x = self.bn(self.conv(x)).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        weights = (x @ x.transpose(1, 2) / 8**0.5 + self.relative_position_bias_table).softmax(-1)
        x = x + self.gamma * self.fc(self.norm(weights @ x))
        return self.head(x[:, 0])


def drawn(seed=0):
    torch.manual_seed(0)
    module = Invisible().eval()
    image = torch.randn(2, 3, 4, 4)
    draw_weights(module, seed, lambda: module(image))
    return module, image


def test_every_parameter_changes_the_output():
    module, image = drawn()
    with torch.no_grad():
        own = module(image)
        assert torch.isfinite(own).all()
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if not tensor.is_floating_point():
                continue
            other = copy.deepcopy(module)
            dict([*other.named_parameters(), *other.named_buffers()])[name].mul_(1.1)
            assert (other(image) - own).abs().max() > 1e-4, name


def test_the_seed_decides():
    first, again, other = drawn(0)[0], drawn(0)[0], drawn(1)[0]
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert not torch.equal(first.gamma, other.gamma)


def test_integers_are_left_alone():
    module, _ = drawn()
    assert module.index.tolist() == list(range(17))


def test_activations_neither_vanish_nor_explode_in_depth():
    torch.manual_seed(0)
    layers = [
        layer
        for _ in range(30)
        for layer in (torch.nn.Conv2d(8, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.ReLU())
    ]
    module = torch.nn.Sequential(*layers).eval()
    with torch.no_grad():
        draw_weights(module, 0, lambda: module(torch.randn(2, 8, 6, 6)))
        spread = module(torch.randn(1, 8, 6, 6)).std()
    assert 1e-2 < spread < 1e2


class Growing(torch.nn.Module):
    """Blocks that grow as the square of what they are given, as attention sharpens: five of them run away."""

    def __init__(self):
        super().__init__()
        self.norms = torch.nn.ModuleList(torch.nn.BatchNorm2d(8) for _ in range(5))

    def forward(self, x):
        for norm in self.norms:
            x = norm(x * x.square().mean().sqrt())
        return x


def test_statistics_that_hold_for_one_run_alone_are_taken_from_more():
    generator = torch.Generator().manual_seed(0)
    one, others, new = (torch.randn(count, 8, 4, 4, generator=generator) for count in (2, 64, 64))
    one *= 0.7
    module = Growing().eval()
    with torch.no_grad():
        draw_weights(module, 0, lambda: module(one))
        assert module(new).std() > 1e3
        again = Growing().eval()
        draw_weights(again, 0, lambda: again(one), lambda: again(others))
        assert again(new).std() < 10
        # Where they hold, nothing is drawn anew.
        kept = Growing().eval()
        draw_weights(kept, 0, lambda: kept(others))
        same = Growing().eval()
        draw_weights(same, 0, lambda: same(others), lambda: same(others[:32]))
        assert torch.equal(kept(new), same(new))
