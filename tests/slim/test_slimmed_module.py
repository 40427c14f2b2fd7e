"""A plan on a torch module: what it becomes, and what is refused."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from modules import Computed, FixedSizes, Scaled, drawn, encoder, images, tokens, vit
from torch import nn

import edgec
from edgec.core.errors import JobError, RequestError
from edgec.slim import slimmed
from edgec.slim.stand_ins import NarrowAttention, ZeroBranch


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_mlps_and_heads_become_narrower_and_the_module_stays_what_it_was() -> None:
    module = vit()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}

    slim = slimmed(module, images(1), "mlp=0.5+heads=0.5", images(48))

    block = slim.get_submodule("blocks.0")
    assert block.mlp[0].weight.shape == (32, 32)
    assert (block.mlp[0].out_features, block.mlp[2].in_features) == (32, 32)
    assert block.attn.heads == 2
    assert block.attn.qkv.weight.shape == (48, 32)
    assert block.attn.qkv.bias.shape == (48,)
    assert block.attn.proj.weight.shape == (32, 16)
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def test_what_is_left_is_healed() -> None:
    module, held_out = vit(), images(40)
    healed = slimmed(module, images(1), "mlp=0.75", images(64))
    plain = copy.deepcopy(healed)
    with torch.no_grad():
        for own, whole in zip(plain.get_submodule("blocks"), module.get_submodule("blocks"), strict=True):
            kept = torch.cdist(own.mlp[0].weight, whole.mlp[0].weight).argmin(1)
            own.mlp[2].weight.copy_(whole.mlp[2].weight[:, kept])
            own.mlp[2].bias.copy_(whole.mlp[2].bias)
            own.attn.proj.load_state_dict(whole.attn.proj.state_dict())
        expected = module(held_out)
        lost = [(each(held_out) - expected).square().mean() for each in (healed, plain)]
    assert lost[0] < 0.7 * lost[1]


def test_a_plan_that_keeps_all_changes_no_output() -> None:
    module = vit()
    slim = slimmed(module, images(1), "mlp=1.0", images(8))
    with torch.no_grad():
        torch.testing.assert_close(slim(images(4)), module(images(4)))


def test_a_branch_that_leaves_becomes_zeros() -> None:
    slim = slimmed(vit(), images(1), "attention:blocks.1.attn=0+mlp_block:blocks.0.mlp=0", images(48))
    assert isinstance(slim.get_submodule("blocks.1.attn"), ZeroBranch)
    assert isinstance(slim.get_submodule("blocks.0.mlp"), ZeroBranch)


def test_biases_of_zeros_which_no_graph_has_follow() -> None:
    module = vit()
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.zeros_(layer.bias)
    slim = slimmed(module, images(1), "mlp=0.5+heads=0.5", images(48))
    assert slim.get_submodule("blocks.0.mlp.0").bias.shape == (32,)
    assert slim.get_submodule("blocks.1.attn.qkv").bias.shape == (48,)


def test_torchs_own_attention_is_replaced_by_one_that_can_be_narrow() -> None:
    slim = slimmed(encoder(), tokens(1), "heads=0.5+mlp=0.5", tokens(64))
    attention = slim.get_submodule("layers.0.self_attn")
    assert isinstance(attention, NarrowAttention)
    assert attention.num_heads == 2
    assert attention.in_proj_weight.shape == (48, 32)


def test_a_branch_without_a_module_of_its_own_loses_its_last_layer() -> None:
    slim = slimmed(encoder(), tokens(1), "mlp_block:layers.0=0+attention:layers.1.self_attn=0", tokens(64))
    assert isinstance(slim.get_submodule("layers.0.linear2"), ZeroBranch)
    assert isinstance(slim.get_submodule("layers.1.self_attn"), ZeroBranch)


@pytest.mark.parametrize("batch_first", [True, False])
def test_a_narrow_attention_with_all_heads_is_the_whole_one(batch_first: bool) -> None:
    whole = drawn(nn.MultiheadAttention(32, 4, batch_first=batch_first))
    data = torch.randn(3, 3, 32)
    hidden = torch.tensor([[False, False, True], [False, True, True], [False] * 3])
    later = torch.ones(3, 3, dtype=torch.bool).triu(1)
    for named in ({}, {"key_padding_mask": hidden}, {"attn_mask": later, "key_padding_mask": hidden}):
        expected, _ = whole(data, data, data, need_weights=False, **named)
        found, _ = NarrowAttention(whole, 4)(data, data, data, **named)
        torch.testing.assert_close(found, expected)


def test_it_compiles_like_any_other(tmp_path: Path) -> None:
    slim = slimmed(vit(), images(1), "mlp=0.5+attention:blocks.1.attn=0", images(48))
    bundle = edgec.compile(
        slim, target="x86:ort", example_inputs=images(1), precision="fp32", output=tmp_path / "slim.edgec"
    )
    with edgec.load(bundle.path) as session:
        feeds = {session.inputs[0].name: images(1).numpy()}
        found = next(iter(session.run(feeds).values()))
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), slim(images(1)), rtol=1e-3, atol=1e-3)


def test_a_forward_with_sizes_of_its_own_is_refused_by_its_layer() -> None:
    with pytest.raises(JobError, match=r"the module itself \(FixedSizes\).*counts on the old sizes"):
        slimmed(drawn(FixedSizes()), tokens(1), "mlp=0.5", tokens(48))


@pytest.mark.parametrize(
    ("scaled", "reason"),
    [
        (True, "weight is weight with a scale folded in"),
        (False, "none of the module's tensors, but computed"),
    ],
)
def test_a_weight_that_is_computed_is_refused(scaled: bool, reason: str) -> None:
    with pytest.raises(JobError, match=reason):
        slimmed(drawn(Computed(scaled)), tokens(1), "mlp=0.5", tokens(48))


def test_a_batch_norm_that_the_exporter_folds_is_told() -> None:
    module = nn.Sequential(
        *(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)),
    )
    with pytest.raises(JobError, match=r"0\.weight with a scale folded in, as of a BatchNorm"):
        slimmed(drawn(module), images(1), "channels=0.5", images(16))


def test_a_scalar_parameter_stays() -> None:
    slim = slimmed(drawn(Scaled()), tokens(1), "mlp=0.5", tokens(48))
    assert slim.get_parameter("gain").shape == ()
    assert slim.get_submodule("mlp.0").out_features == 32


def test_channels_become_fewer() -> None:
    module = nn.Sequential(
        *(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=16), nn.ReLU(), nn.Conv2d(16, 8, 3)),
        *(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)),
    )
    slim = slimmed(drawn(module), images(1), "channels=0.5", images(32))
    assert (slim[0].out_channels, slim[2].groups, slim[4].in_channels, slim[8].in_features) == (8, 8, 8, 4)


def test_widths_of_heads_are_refused() -> None:
    with pytest.raises(JobError, match=r"qk_width:blocks.0.attn\S* cannot be cut in a module"):
        slimmed(vit(), images(1), "qk_width=0.5", images(8))


def test_calibration_data_is_needed_and_must_fit() -> None:
    with pytest.raises(RequestError, match="slimming needs inputs"):
        slimmed(vit(), images(1), "mlp=0.5", None)
    with pytest.raises(RequestError, match="rows of shape"):
        slimmed(vit(), images(1), "mlp=0.5", torch.randn(4, 3, 8, 8))


def test_a_unit_of_another_module_is_refused() -> None:
    with pytest.raises(RequestError, match=r"no unit 'mlp:layers\.0'"):
        slimmed(vit(), images(1), "mlp:layers.0=3", images(8))
