"""From a MIL program to an .mlpackage on disk, the same bytes each time."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import io
import json
import logging
import shutil
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgec.core.errors import JobError
from edgec.targets.coreml.input_types import input_types
from edgec.targets.coreml.lowering.classes import LABEL
from edgec.targets.coreml.lowering.full import takes_half
from edgec.targets.coreml.lowering.program import Lowered
from edgec.targets.coreml.lowering.site import dtype_of
from edgec.targets.coreml.versions import Release, coremltools

MODEL_FILE = "Data/com.apple.CoreML/model.mlmodel"

_VOLATILE = ("com.github.apple.coremltools.conversion_date",)
"""Metadata that would make two builds of one model differ."""


def save(
    lowered: Lowered,
    path: Path,
    release: Release,
    precision: str,
    *,
    description: str = "",
) -> Any:
    """Run coremltools' own passes on the program and write the package.

    Args:
        lowered: the program; it is changed by the passes.
        path: where the package goes; replaced if it is there.
        release: what the package is built for.
        precision: `fp32` or `fp16`.
        description: one line that Xcode shows.

    Returns:
        coremltools' model object, for weight compression.

    Raises:
        JobError: coremltools cannot convert the program.
    """
    ct = coremltools()
    half = ct.transform.FP16ComputePrecision(op_selector=takes_half)
    try:
        with warnings.catch_warnings(), quiet(), _only_new_garbage():
            warnings.simplefilter("ignore")
            model = ct.convert(
                lowered.program,
                source="milinternal",
                convert_to="mlprogram",
                minimum_deployment_target=release.coremltools_target,
                compute_precision=half if precision == "fp16" else ct.precision.FLOAT32,
                inputs=input_types(lowered),
                classifier_config=_classifier(ct, lowered),
                pass_pipeline=_pipeline(ct, precision),
                skip_model_load=True,
            )
            model.short_description = description
    except (ValueError, TypeError, RuntimeError, NotImplementedError, AssertionError) as error:
        words = " ".join(str(error).split())[:300]
        raise JobError(f"coremltools could not convert the program ({words})", where=str(path)) from error
    write(model, path)
    return model


@contextlib.contextmanager
def _only_new_garbage() -> Iterator[None]:
    """Keep what is there already out of the full collection that coremltools asks for at each conversion.

    Beside torch that is half a million objects, and most of the time of a small conversion.
    """
    if gc.get_freeze_count():  # somebody else's, who would not have them back
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def merged_outputs(lowered: Lowered, model: Any) -> list[str]:
    """Names of outputs that a converted model lacks: they were one variable with another output.

    coremltools leaves out what changes nothing (a transpose of one row, a sum with 0) and computes equal
    operations once; of two outputs that thereby become one variable, the package keeps one.

    Args:
        lowered: the program as it was.
        model: what `save` returned.
    """
    kept = {output.name for output in model.get_spec().description.output}
    return [feature.name for feature in lowered.outputs if feature.name not in kept]


def _classifier(ct: Any, lowered: Lowered) -> Any:
    if lowered.classifier is None:
        return None
    names = lowered.classifier
    return ct.ClassifierConfig(
        list(names.labels), predicted_feature_name=LABEL, predicted_probabilities_output=names.tensor
    )


_INEXACT_PASSES = ("common::fuse_elementwise_to_batchnorm",)
"""It turns x · a + b into a batch_norm whose default epsilon of 1e-5 scales a by 1 - 5e-6."""


def _pipeline(ct: Any, precision: str) -> Any:
    """Coremltools' passes, less those that change the numbers."""
    pipeline = ct.PassPipeline()
    pipeline.remove_passes(set(_INEXACT_PASSES))
    if precision == "fp16":
        pipeline.set_options("common::add_int16_cast", {"op_selector": _fits_16_bits})
    return pipeline


def _fits_16_bits(operation: Any) -> bool:
    """Whether an operation's integers may travel in 16 bits: those that count places on a short axis.

    From iOS 17 on, coremltools' pass takes any integers that these operations read, token ids above 32,767 as
    well, and the places that `topk` finds on any axis.
    """
    if dtype_of(operation.x).kind != "f":
        return False
    if operation.op_type == "topk":
        sizes = [operation.x.shape[operation.axis.val]]
    elif operation.op_type == "gather_nd":
        sizes = list(operation.x.shape)
    else:
        return True
    return all(isinstance(size, (int, np.integer)) and size <= np.iinfo(np.int16).max for size in sizes)


def write(model: Any, path: Path) -> None:
    """Save coremltools' model under a path, with everything that varies pinned."""
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        draft = Path(scratch) / "model.mlpackage"
        with quiet():
            model.save(str(draft))
        pin(draft)
        if path.exists():
            shutil.rmtree(path)
        draft.rename(path)


def pin(path: Path) -> None:
    """Make the package's bytes depend on its content alone.

    The protobuf is serialized with its maps in order and without the conversion's date; the
    Manifest's random identifiers become hashes of what they name.
    """
    from coremltools.proto import Model_pb2

    file = path / MODEL_FILE
    model = Model_pb2.Model()
    model.ParseFromString(file.read_bytes())
    for key in _VOLATILE:
        model.description.metadata.userDefined.pop(key, None)
    file.write_bytes(model.SerializeToString(deterministic=True))
    manifest_file = path / "Manifest.json"
    manifest = json.loads(manifest_file.read_text(encoding="utf-8"))
    names = {key: _identifier(path, entry) for key, entry in manifest["itemInfoEntries"].items()}
    entries = {names[key]: entry for key, entry in manifest["itemInfoEntries"].items()}
    manifest["itemInfoEntries"] = dict(sorted(entries.items()))
    manifest["rootModelIdentifier"] = names[manifest["rootModelIdentifier"]]
    text = json.dumps(manifest, indent=4, sort_keys=True)
    manifest_file.write_text(text + "\n", encoding="utf-8")


def _identifier(path: Path, entry: dict[str, str]) -> str:
    digest = hashlib.sha256(entry["path"].encode())
    target = path / "Data" / entry["path"]
    files = sorted(target.rglob("*")) if target.is_dir() else [target]
    for file in files:
        if file.is_file():
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return str(uuid.UUID(bytes=digest.digest()[:16])).upper()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep coremltools' progress bars and log lines off the terminal."""
    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
