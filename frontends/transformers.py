"""`hf:DIR`: a transformers checkpoint folder, for features or with its head, or a part (`hf:DIR:encoder`)."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.core.errors import EdgecError, RequestError
from edgec.core.graph import Graph
from edgec.core.progress import Progress, Silent
from edgec.frontends.checkpoint_inputs import preprocessor
from edgec.frontends.checkpoint_parts import part_of, parted
from edgec.frontends.inputs import option, parse_inputs
from edgec.frontends.quiet import first_line, quiet
from edgec.frontends.torchvision_guard import prepare_torchvision, require

if TYPE_CHECKING:
    import torch

_logger = logging.getLogger("edgec.frontends")

_HEADS = (
    *("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"),
    *("ForImageClassification", "ForImageClassificationWithTeacher", "ForDepthEstimation"),
    *("ForObjectDetection", "ForZeroShotObjectDetection", "ForPoseEstimation", "ForKeypointDetection"),
    *("ForSemanticSegmentation", "ForInstanceSegmentation", "ForUniversalSegmentation", "ForSegmentation"),
    *("ForAudioClassification", "ForAudioFrameClassification", "ForXVector", "ForCTC"),
    *("ForConditionalGeneration", "ForSpeechSeq2Seq", "MTModel", "EncoderDecoderModel"),
)
"""Heads that belong to the model; any other (masked language modelling, pretraining) is left out."""


def from_transformers(
    folder: str,
    *,
    spec: str | None = None,
    kind: str = "transformers",
    name: str | None = None,
    notes: Sequence[str] = (),
    examples: Sequence[dict[str, Any]] | None = None,
    example: str | Path | None = None,
    inputs: Sequence[str] = (),
    batch: int | None = None,
    seed: int = 0,
    samples: int = 3,
    progress: Progress | None = None,
) -> Graph:
    """Load a checkpoint folder, as `save_pretrained` writes it, and trace the model.

    Token models take `input_ids`, `attention_mask` and, where they know segments, `token_type_ids`,
    of min(128, `max_position_embeddings`) tokens, pages a `bbox` beside; vision models take `pixel_values`,
    promptable ones points beside; models of both, such as CLIP, take all of these; models of sound take
    samples or frames. Nothing is fetched and no code of the checkpoint is run.

    Args:
        folder: the folder, or the folder and a part of the model: `DIR:encoder` and `DIR:decoder` of an
            encoder-decoder, `DIR:text` and `DIR:vision` of a model of both.
        spec: what the user named; `hf:` and the folder where not given.
        kind: the frontend, as in `Source.kind`.
        name: short name; the folder's name where not given.
        notes: what the user should read, one sentence each.
        examples: real feeds instead of drawn ones.
        example: an npz file of real inputs.
        inputs: `--input` options; a shape given for one token input holds for all.
        batch: size of the batch.
        seed: of drawn inputs.
        samples: how many examples to draw.
        progress: told about long steps.

    Raises:
        RequestError: the folder is no checkpoint that transformers reads, or of a kind edgec does not take.
        MissingExtraError: transformers is not installed.
        JobError: no exporter reproduces the model.
    """
    progress = progress or Silent()
    spec = spec or f"hf:{folder}"
    folder, wanted = parted(folder)
    path = Path(folder)
    said = list(notes)
    model = load_checkpoint(folder, spec, progress, said)
    from edgec.frontends.torch import from_module

    part = part_of(model, wanted, path, spec)
    takes = part.takes
    inputs = _for_all(inputs, takes.tokens)
    said += takes.notes
    return from_module(
        part.module,
        takes.arguments,
        spec=spec,
        name=name or "-".join(filter(None, (path.resolve().name, wanted))),
        kind=kind,
        semantics={key: takes.semantics.get(key, "unknown") for key in takes.arguments},
        drawings={key: drawing for key, drawing in takes.drawings.items() if key in takes.arguments},
        examples=examples,
        preprocessing={
            key: known for key, known in _preprocessing(path, model).items() if key in takes.arguments
        },
        labels=_labels(model),
        notes=said,
        weights="from the checkpoint",
        example=example,
        inputs=inputs,
        batch=batch,
        seed=seed,
        samples=samples,
        progress=progress,
    )


def load_checkpoint(
    folder: str, spec: str, progress: Progress, notes: list[str] | None = None, *, generates: str = ""
) -> torch.nn.Module:
    """The model of a checkpoint folder, in evaluation mode and fp32.

    Args:
        folder: the folder.
        spec: what the user named.
        progress: told about long steps.
        notes: what the user should read is added.
        generates: the name of transformers' class that loads all of it, its head and its cache too; empty
            where an encoder is enough.

    Raises:
        RequestError: the folder is no checkpoint that transformers reads, or of a kind edgec does not take.
        MissingExtraError: transformers is not installed.
    """
    path = Path(folder)
    _check_folder(path, spec)
    progress.step("importing torch and transformers")
    require("torch", "transformers")
    prepare_torchvision()
    with quiet():
        require("transformers", "transformers")
    progress.step(f"loading {path.name}")
    return _load(path, spec, [] if notes is None else notes, generates)


def _check_folder(path: Path, spec: str) -> None:
    if not path.exists():
        looks_like_hub = len(path.parts) == 2 and not path.is_absolute()
        raise RequestError(
            "there is no such folder",
            where=spec,
            fix=f"fetch it first: hf download {path.as_posix()} --local-dir {path.name}"
            if looks_like_hub
            else "name a folder that save_pretrained wrote",
        )
    if not path.is_dir():
        raise RequestError("this is a file, not a folder", where=spec, fix="name the folder it lies in")
    config = path / "config.json"
    if not config.is_file():
        inside = [entry.name for entry in path.iterdir() if (entry / "config.json").is_file()]
        raise RequestError(
            "the folder has no config.json, so it is no transformers checkpoint",
            where=spec,
            fix=f"did you mean hf:{path / sorted(inside)[0]}?"
            if inside
            else "name a folder that save_pretrained wrote",
        )
    try:
        known = json.loads(config.read_text("utf-8"))
    except ValueError as error:
        raise RequestError(
            f"its config.json is no JSON ({error})", where=spec, fix="copy it again"
        ) from error
    if not isinstance(known, dict) or "model_type" not in known:
        raise RequestError(
            "its config.json names no model_type, so it is no transformers checkpoint",
            where=spec,
            fix="write timm:NAME@FILE for a timm model, or file.py:function for another",
        )
    if not any(entry.suffix in (".safetensors", ".bin") for entry in path.iterdir()):
        raise RequestError(
            "the folder holds no weights (model.safetensors or pytorch_model.bin)",
            where=spec,
            fix="copy the whole checkpoint",
        )


def _load(path: Path, spec: str, notes: list[str], generates: str) -> torch.nn.Module:
    import transformers

    transformers.utils.logging.disable_progress_bar()
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        with quiet():
            config = transformers.AutoConfig.from_pretrained(path, **options)
    except Exception as error:
        _logger.debug("no configuration", exc_info=error)
        raise RequestError(
            f"transformers {transformers.__version__} cannot read the checkpoint: {first_line(error)}",
            where=spec,
            fix="check model_type in its config.json; code that comes with a checkpoint is not run",
        ) from error
    architecture = next(iter(config.architectures or ()), "")
    if generates and not hasattr(transformers, generates):
        raise RequestError(
            f"transformers {transformers.__version__} has no {generates}",
            where=spec,
            fix="correct architectures in its config.json; code that comes with a checkpoint is not run",
        )
    loader, keeps_head = (
        (getattr(transformers, generates), True) if generates else _loader(config, architecture)
    )
    if not keeps_head:
        notes.append(f"The head of {architecture} is left out; the graph computes the encoder's features.")
    if hasattr(config, "use_cache") and not generates:
        config.use_cache = False  # a cache of keys and values is no tensor, and one pass needs none
    import torch

    def load(**more: Any) -> tuple[torch.nn.Module, dict[str, Any]]:
        with quiet():
            return loader.from_pretrained(
                path, config=config, dtype=torch.float32, output_loading_info=True, **options, **more
            )

    try:
        model, found = load()
        missing = sorted(found["missing_keys"])
        if missing and all(key.startswith("pooler.") for key in missing):
            model, found = load(add_pooling_layer=False)
            missing = sorted(found["missing_keys"])
    except EdgecError:
        raise
    except Exception as error:
        _logger.debug("no model", exc_info=error)
        raise RequestError(
            f"the checkpoint cannot be loaded: {first_line(error)}",
            where=spec,
            fix="copy the whole checkpoint again, or check that its weights fit its config.json",
        ) from error
    if missing:
        raise RequestError(
            f"the checkpoint lacks {len(missing)} weights, {missing[0]!r} first",
            where=spec,
            fix="copy the whole checkpoint, or correct architectures in its config.json",
        )
    return model.eval()


def _loader(config: Any, architecture: str) -> tuple[Any, bool]:
    """The class that loads the checkpoint, and whether it is all of the architecture.

    One configuration may serve several classes: T5EncoderModel is the encoder of what AutoModel makes of it.
    """
    import transformers

    named = getattr(transformers, architecture, None) if architecture else None
    if architecture.endswith(_HEADS) and named is not None:
        return named, True
    if "For" in architecture or architecture.endswith("LMHeadModel"):
        return transformers.AutoModel, False
    known = getattr(named, "config_class", None)
    return (named if known is not None and isinstance(config, known) else transformers.AutoModel), True


def _for_all(inputs: Sequence[str], names: tuple[str, ...]) -> tuple[str, ...]:
    """Token inputs have one shape: one that is given holds for those that are not."""
    requests = parse_inputs(inputs)
    given = next((request for name, request in requests.items() if name in names), None)
    if given is None:
        return tuple(inputs)
    shape = given.of_rank(2).shape
    return (*inputs, *(option(name, shape, None) for name in names if name not in requests))


def _preprocessing(path: Path, model: torch.nn.Module) -> dict[str, dict[str, object]]:
    config: Any = model.config
    if model.main_input_name == "input_ids":
        found: dict[str, object] = {"pad_token_id": getattr(config.get_text_config(), "pad_token_id", None)}
        if (path / "tokenizer.json").is_file():
            found["tokenizer"] = "tokenizer.json"
        pictures = _picture_preprocessing(path) if hasattr(config, "vision_config") else {}
        return {"input_ids": found, **pictures}
    return _picture_preprocessing(path)


def _picture_preprocessing(path: Path) -> dict[str, dict[str, object]]:
    known = preprocessor(path)
    if not known:
        return {}
    keys: Mapping[str, str] = {"mean": "image_mean", "std": "image_std", "size": "size"}
    return {
        "pixel_values": {
            "layout": "NCHW",
            **{key: known[theirs] for key, theirs in keys.items() if theirs in known},
        }
    }


def _labels(model: torch.nn.Module) -> tuple[str, ...]:
    if not type(model).__name__.endswith("Classification"):
        return ()
    labels: Mapping[Any, str] = getattr(model.config, "id2label", None) or {}
    return tuple(str(labels[index]) for index in sorted(labels, key=int))
