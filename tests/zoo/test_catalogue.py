"""The catalogue says what is there, and counts attention as the modules compute it."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgec import zoo
from edgec.core.errors import MissingExtraError, RequestError

FAMILIES = {
    *(
        "DeiT",
        "Swin",
        "EfficientFormer",
        "PoolFormer",
        "CAFormer",
        "MobileViT",
        "EdgeNeXt",
        "TNT",
        "CrossViT",
    ),
    *("PiT", "Visformer", "BEiT", "ConvMixer", "gMLP", "LeViT", "MaxViT", "XCiT", "CaiT", "EfficientViT"),
    *("Twins", "CrossViT", "ViT", "BERT"),
}

QUICK = ("xcit_nano", "edgenext_small", "poolformer_s12")


def test_every_promised_family_is_there() -> None:
    assert {zoo.entry(name).family for name in zoo.names()} == FAMILIES
    assert {"vit_digits", "vit_shapes", "minilm", "deit_tiny", "deit_small"} <= set(zoo.names())


def test_entries_are_whole() -> None:
    for name in zoo.names():
        known = zoo.entry(name)
        assert known.name == name
        assert known.task in ("image classification", "sentence embedding")
        assert all([known.family, known.description, known.weights, known.licence])
        scheme, _, target = known.source.partition(":")
        assert scheme in ("timm", "package")
        if scheme == "package":
            assert (Path(zoo.__file__).parent / target / "model.py").is_file()


def test_timm_has_every_model_with_that_licence() -> None:
    from edgec.frontends.torchvision_guard import prepare_torchvision

    pytest.importorskip("torch")
    prepare_torchvision()
    timm = pytest.importorskip("timm")
    for name in zoo.names():
        known = zoo.entry(name)
        if known.timm_name is not None:
            assert timm.is_model(known.timm_name), name
            assert timm.get_pretrained_cfg(known.timm_name).license == known.licence, name


@pytest.mark.parametrize(
    ("asked", "nearest"),
    [("deit_tny", "deit_tiny"), ("VIT_DIGITS", "vit_digits"), ("tnt_s_patch16_224", "tnt_small")],
)
def test_an_unknown_name_gets_the_nearest(asked: str, nearest: str) -> None:
    for ask in (zoo.entry, zoo.load, zoo.evaluation, zoo.calibration, zoo.module):
        with pytest.raises(RequestError, match=f"did you mean zoo:{nearest}"):
            ask(asked)


def test_a_name_like_none_points_to_the_list() -> None:
    with pytest.raises(RequestError, match="edgec zoo"):
        zoo.entry("?")


def test_models_without_data_have_none() -> None:
    assert zoo.evaluation("deit_tiny") is None
    assert zoo.calibration("deit_tiny") is None


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util
    import sys

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"edgec\[zoo\]"):
        zoo.evaluation("minilm")
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtraError, match=r"edgec\[zoo\]"):
        zoo.evaluation("vit_digits")


def softmaxes(name: str) -> int:
    """Softmaxes and fused attentions in one forward pass of a zoo model."""
    torch = pytest.importorskip("torch")
    from torch.overrides import TorchFunctionMode

    functional = torch.nn.functional
    counted = {
        torch.softmax,
        torch.Tensor.softmax,
        functional.softmax,
        functional.scaled_dot_product_attention,
        torch._C._nn.scaled_dot_product_attention,
    }

    class Counter(TorchFunctionMode):
        calls = 0

        def __torch_function__(self, function, types, args=(), kwargs=None):
            # A mode is off within its own handler, so what `function` calls is not counted again.
            Counter.calls += function in counted
            return function(*args, **(kwargs or {}))

    module, arguments = zoo.module(name)
    with torch.inference_mode(), Counter() as counter:
        module(*arguments)
    return counter.calls


def check_attention(name: str) -> None:
    known = zoo.entry(name)
    assert softmaxes(name) == known.attention + known.channel_attention + known.talking_heads


@pytest.mark.parametrize("name", QUICK)
def test_attention_is_counted_as_computed(name: str) -> None:
    check_attention(name)


@pytest.mark.full
@pytest.mark.parametrize("name", [name for name in zoo.names() if name not in QUICK])
def test_attention_is_counted_as_computed_everywhere(name: str) -> None:
    check_attention(name)


def test_drawn_weights_are_the_seeds() -> None:
    torch = pytest.importorskip("torch")
    outputs = []
    for seed in (0, 0, 1):
        module, arguments = zoo.module("xcit_nano", seed)
        state = torch.random.get_rng_state()
        with torch.inference_mode():
            outputs.append(module(*arguments))
        assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.allclose(outputs[0], outputs[2])
