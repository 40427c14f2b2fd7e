"""timm models by name, with drawn weights where there are no others."""

import numpy as np
import pytest

from edgec.core.errors import RequestError
from edgec.frontends import load

torch = pytest.importorskip("torch")

from edgec.frontends.torchvision_guard import require  # noqa: E402

timm = require("timm", "timm")


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setattr("edgec.frontends.timm.is_reachable", lambda: False)


@pytest.fixture(scope="module")
def graph():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgec.frontends.timm.is_reachable", lambda: False)
        return load("timm:test_vit")


def test_a_model_with_drawn_weights_says_so(graph):
    assert graph.source.kind == "timm"
    assert graph.source.name == "test_vit"
    assert graph.source.weights == "random, seed 0"
    assert "random (seed 0), not pretrained" in graph.source.notes[0]
    assert graph.labels == ()


def test_the_input_is_an_image_of_the_models_own_size(graph):
    (image,) = graph.inputs
    assert (image.name, image.semantics, image.dtype) == ("image", "image", "float32")
    assert image.shape == (1, *timm.get_pretrained_cfg("test_vit").input_size)
    about = graph.preprocessing["image"]
    assert about["size"] == list(image.shape[2:])
    assert len(about["mean"]) == len(about["std"]) == 3
    assert about["interpolation"] == "bicubic"


def test_outputs_depend_on_the_input(graph):
    first, second, _ = (reference["output"] for reference in graph.references)
    assert np.abs(first - second).max() > 1e-2


def test_batch_and_size():
    graph = load("timm:test_vit", inputs=["image:2x3x96x96"])
    assert graph.inputs[0].shape == (2, 3, 96, 96)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "vit_tiny_patch16_223",
            "timm has no model 'vit_tiny_patch16_223'; did you mean vit_tiny_patch16_224",
        ),
        ("test_vit.r160_in2k", "timm has no weights 'r160_in2k' for test_vit; choose from r160_in1k"),
    ],
)
def test_unknown_names_get_the_nearest(name, words):
    with pytest.raises(RequestError) as caught:
        load(f"timm:{name}")
    assert words in str(caught.value)


class TestOwnWeights:
    def test_weights_of_a_file_and_its_number_of_classes(self, tmp_path):
        torch.manual_seed(1)
        tuned = timm.create_model("test_vit", num_classes=7).eval()
        path = tmp_path / "tuned.pth"
        torch.save({"state_dict": tuned.state_dict()}, path)
        graph = load(f"timm:test_vit@{path}")
        assert graph.source.weights == "from tuned.pth"
        assert graph.source.notes == ()
        with torch.no_grad():
            own = tuned(torch.from_numpy(graph.examples[0]["image"])).numpy()
        np.testing.assert_allclose(graph.references[0]["output"], own, atol=1e-5)

    def test_weights_of_another_model(self, tmp_path):
        from safetensors.torch import save_file

        path = tmp_path / "other.safetensors"
        save_file({"fc.weight": torch.zeros(3, 3)}, path)
        with pytest.raises(RequestError, match=r"do not fit test_vit: .* is missing"):
            load(f"timm:test_vit@{path}")

    def test_a_file_that_is_none(self, tmp_path):
        with pytest.raises(RequestError, match="no such file of weights"):
            load(f"timm:test_vit@{tmp_path}/none.pth")
        path = tmp_path / "text.pth"
        path.write_text("hello")
        with pytest.raises(RequestError, match="weights cannot be read"):
            load(f"timm:test_vit@{path}")


def test_the_hub_is_given_up_in_seconds(monkeypatch):
    import socket
    import time

    from edgec.frontends import hub

    monkeypatch.delenv("HTTPS_PROXY", raising=False)
    monkeypatch.delenv("https_proxy", raising=False)
    monkeypatch.setattr(hub, "_PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: time.sleep(3))
    start = time.monotonic()
    assert not hub.is_reachable()
    assert time.monotonic() - start < 2.5
