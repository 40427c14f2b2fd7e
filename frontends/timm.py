"""`timm:NAME`: an image model of timm, with its pretrained weights, the user's, or drawn ones."""

from __future__ import annotations

import contextlib
import difflib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.core.errors import MissingExtraError, RequestError
from edgec.core.graph import Graph
from edgec.core.progress import Progress, Silent
from edgec.frontends.hub import is_reachable, offline
from edgec.frontends.inputs import InputRequest, parse_inputs
from edgec.frontends.quiet import first_line, quiet
from edgec.frontends.torchvision_guard import require

if TYPE_CHECKING:
    import torch

_logger = logging.getLogger("edgec.frontends")

INPUT = "image"
"""The name of the input of every timm model."""


def from_timm(
    name: str,
    *,
    spec: str | None = None,
    kind: str = "timm",
    options: Mapping[str, Any] | None = None,
    pretrained: bool = True,
    notes: Sequence[str] = (),
    example: str | Path | None = None,
    inputs: Sequence[str] = (),
    batch: int | None = None,
    seed: int = 0,
    samples: int = 3,
    progress: Progress | None = None,
) -> Graph:
    """Build a timm model and trace it.

    Pretrained weights are taken from the local cache or the hub. Where neither has them, weights are
    drawn from the seed (`draw_weights`), which `Source.weights` and `Source.notes` say.

    Args:
        name: a model's name in timm, `@FILE` behind it for weights of your own (safetensors or pth).
        spec: what the user named; `timm:` and the name where not given.
        kind: the frontend, as in `Source.kind`.
        options: further arguments of `timm.create_model`, such as `num_classes`.
        pretrained: whether to look for pretrained weights at all.
        notes: what the user should read, one sentence each.
        example: an npz file of real inputs.
        inputs: `--input` options; the input is named `image`.
        batch: size of the batch.
        seed: of drawn inputs and weights.
        samples: how many examples to draw.
        progress: told about long steps.

    Raises:
        RequestError: timm has no such model, or the weights do not fit it.
        MissingExtraError: timm is not installed.
        JobError: no exporter reproduces the model.
    """
    import importlib.util

    progress = progress or Silent()
    if importlib.util.find_spec("timm") is None:
        raise MissingExtraError("timm", "timm")
    progress.step("importing torch and timm")
    require("torch", "timm")
    with quiet():
        require("timm", "timm")
    from edgec.frontends.torch import from_module

    name, _, weights_file = name.partition("@")
    spec = spec or f"timm:{name}" + (f"@{weights_file}" if weights_file else "")
    _check_name(name, spec)
    arguments = {**_size_arguments(name, parse_inputs(inputs).get(INPUT)), **(options or {})}
    progress.step(f"building {name}")
    said = list(notes)
    if weights_file:
        model = _with_file(name, weights_file, arguments)
        weights = f"from {Path(weights_file).name}"
    else:
        model, weights, note = _with_pretrained(name, arguments, seed, pretrained)
        if note:
            said.append(note)
            progress.note(note)
    size = _input_size(model, arguments)
    return from_module(
        model,
        _zeros(size),
        input_names=(INPUT,),
        spec=spec,
        name=name,
        kind=kind,
        semantics={INPUT: "image"},
        preprocessing={INPUT: _preprocessing(model, size)},
        labels=_labels(model) if weights == "pretrained" else (),
        notes=said,
        weights=weights,
        example=example,
        inputs=inputs,
        batch=batch,
        seed=seed,
        samples=samples,
        progress=progress,
    )


def _zeros(size: tuple[int, int, int]) -> torch.Tensor:
    import torch

    return torch.zeros(1, *size)


def _check_name(name: str, spec: str) -> None:
    import timm

    bare, _, tag = name.partition(".")
    if timm.is_model(bare) and not tag:
        return
    known = timm.list_models(pretrained=False)
    if not timm.is_model(bare):
        near = difflib.get_close_matches(bare, known, n=3, cutoff=0.5)
        raise RequestError(
            f"timm has no model {bare!r}",
            where=spec,
            fix=f"did you mean {', '.join(near)}?" if near else "see timm.list_models()",
        )
    tags = [other.partition(".")[2] for other in timm.list_pretrained(f"{bare}.*")]
    if tag not in tags:
        raise RequestError(
            f"timm has no weights {tag!r} for {bare}",
            where=spec,
            fix=f"choose from {', '.join(tags)}" if tags else f"write timm:{bare}",
        )


def _size_arguments(name: str, request: InputRequest | None) -> dict[str, Any]:
    """Models whose position tables depend on the image's size must be built for it."""
    import timm

    request = None if request is None else request.of_rank(4)
    if request is None or len(request.shape) != 4:
        return {}
    arguments: dict[str, Any] = {}
    channels, *size = request.shape[1:]
    config = timm.get_pretrained_cfg(name)
    own = tuple(config.input_size) if config is not None else (3, 224, 224)
    if isinstance(channels, int) and channels != own[0]:
        arguments["in_chans"] = channels
    if all(isinstance(extent, int) for extent in size) and tuple(size) != own[1:]:
        arguments["img_size"] = tuple(size)
    return arguments


def _create(name: str, arguments: Mapping[str, Any], **more: Any) -> torch.nn.Module:
    """`timm.create_model`; an image size that the model does not take as an argument is left out."""
    import timm

    with quiet():
        try:
            return timm.create_model(name, **arguments, **more).eval()
        except TypeError as error:
            if "img_size" not in arguments or "img_size" not in str(error):
                raise
            rest = {key: value for key, value in arguments.items() if key != "img_size"}
            return timm.create_model(name, **rest, **more).eval()


def _with_pretrained(
    name: str, arguments: Mapping[str, Any], seed: int, wanted: bool
) -> tuple[torch.nn.Module, str, str]:
    """The model, whose weights it has, and what to tell the user about them."""
    import timm
    import torch

    why = "it was asked for"
    if wanted:
        config = timm.get_pretrained_cfg(name)
        if config is None or not (config.hf_hub_id or config.url or config.file):
            why = "timm has none for this model"
        else:
            online = is_reachable()
            try:
                with contextlib.nullcontext() if online else offline():
                    return _create(name, arguments, pretrained=True), "pretrained", ""
            except Exception as error:
                _logger.debug("no pretrained weights", exc_info=error)
                why = (
                    f"loading them failed ({first_line(error)})"
                    if online
                    else "they are not in the local cache and the hub cannot be reached"
                )
    from edgec.frontends.draw_weights import draw_weights

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = _create(name, arguments)
        image = torch.randn(2, *_input_size(model, arguments))
        others = torch.randn(6, *_input_size(model, arguments))
    with torch.no_grad(), quiet():
        draw_weights(model, seed, lambda: model(image), lambda: model(others))
    text = f"random, seed {seed}"
    note = f"The weights of {name} are random (seed {seed}), not pretrained: {why}."
    return model, text, "" if not wanted else note


def _with_file(name: str, file: str, arguments: Mapping[str, Any]) -> torch.nn.Module:
    """The model with the user's own weights; the number of classes is the file's."""
    import timm.models

    path = Path(file)
    if not path.is_file():
        raise RequestError("there is no such file of weights", where=file, fix="check the path after @")
    try:
        with quiet():
            state = timm.models.load_state_dict(str(path), weights_only=True)
    except Exception as error:
        raise RequestError(
            f"the weights cannot be read: {first_line(error)}",
            where=file,
            fix="give a safetensors file or a state dict saved with torch.save",
        ) from error
    model = _create(name, arguments)
    config: Any = model.pretrained_cfg
    classifier = config.get("classifier")
    head = state.get(f"{classifier}.weight") if isinstance(classifier, str) else None
    if head is not None and "num_classes" not in arguments and head.shape[0] != model.num_classes:
        model = _create(name, {**arguments, "num_classes": head.shape[0]})
    own = model.state_dict()
    wrong = [key for key in own if key in state and own[key].shape != state[key].shape]
    missing = [key for key in own if key not in state]
    if wrong or missing:
        what = (
            f"{wrong[0]!r} is {'x'.join(map(str, state[wrong[0]].shape))} in the file and "
            f"{'x'.join(map(str, own[wrong[0]].shape))} in the model"
            if wrong
            else f"{missing[0]!r} is missing, and {len(missing) - 1} more"
        )
        raise RequestError(
            f"the weights do not fit {name}: {what}",
            where=file,
            fix="name the model that they were trained for",
        )
    model.load_state_dict({key: state[key] for key in own})
    return model


def _input_size(model: torch.nn.Module, arguments: Mapping[str, Any]) -> tuple[int, int, int]:
    config: Any = model.pretrained_cfg
    channels, height, width = config.get("input_size") or (3, 224, 224)
    return (arguments.get("in_chans", channels), *arguments.get("img_size", (height, width)))


def _preprocessing(model: torch.nn.Module, size: tuple[int, int, int]) -> dict[str, object]:
    import timm.data

    config = timm.data.resolve_model_data_config(model)
    return {
        "layout": "NCHW",
        "size": list(size[1:]),
        "mean": [float(value) for value in config["mean"]],
        "std": [float(value) for value in config["std"]],
        "interpolation": str(config["interpolation"]),
        "crop_pct": float(config["crop_pct"]),
        "crop_mode": str(config["crop_mode"]),
    }


def _labels(model: torch.nn.Module) -> tuple[str, ...]:
    """ImageNet's class names, where the model's classes are those."""
    import timm.data

    try:
        subset = timm.data.infer_imagenet_subset(model)
        if subset is None:
            return ()
        return tuple(timm.data.ImageNetInfo(subset).label_descriptions())
    except Exception as error:  # a convenience that must not stop a compile
        _logger.debug("no labels", exc_info=error)
        return ()
