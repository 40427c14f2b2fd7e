"""`engine/plan.json`: all that the builder on the device needs to know, besides the model itself.

The file is the contract between the compiler, which writes it, and the builder on the device, which reads
it without any of the compiler's code. Paths in it are relative to the folder that it is in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgec.core.bundle import write_json
from edgec.core.errors import IntegrityError
from edgec.core.json_file import read_object
from edgec.core.numerics import Gate
from edgec.core.plain_files import is_inside

SCHEMA = 1
PLAN = "plan.json"
MODEL = "model.onnx"
TIMING_CACHE = "timing.cache"
WEIGHTS = "model.weights"


@dataclasses.dataclass(frozen=True)
class ShapeRange:
    """Sizes of one input in one profile.

    Attributes:
        min: smallest sizes.
        opt: the sizes that TensorRT tunes for.
        max: largest sizes.
    """

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class ShapeProfile:
    """One optimization profile: one bucket of shapes.

    Attributes:
        inputs: the range of every input, also of those whose shape is fixed.
    """

    inputs: dict[str, ShapeRange]


@dataclasses.dataclass(frozen=True)
class PluginUse:
    """A custom op that stays in the graph.

    Attributes:
        op: its type in the domain `ai.edgec`.
        library: the shared library that has its creator.
    """

    op: str
    library: str


@dataclasses.dataclass(frozen=True)
class Needs:
    """What the device must have free before the build starts; estimates, upper ones.

    Attributes:
        memory_bytes: device memory that is free.
        disk_bytes: free bytes where the engine is written.
    """

    memory_bytes: int
    disk_bytes: int


@dataclasses.dataclass(frozen=True)
class PlanTensor:
    """An input or output of the model as TensorRT sees it.

    Attributes:
        name: the tensor's name.
        shape: sizes; -1 where open.
        dtype: numpy dtype name.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way to build the engine: the device builds those that its time allows, and keeps the fastest.

    Attributes:
        name: short, for folders and options.
        what: what is different, in words.
        precision: what decides its types, `kept`, `flag`, `free` or `plain`; variants of the same differ by
            an edit.
        edit: how its graph is another one; empty where it is not.
        model: its model's file.
        model_sha256: of that file.
        flags: as `Plan.flags`.
        layer_precisions: as `Plan.layer_precisions`.
    """

    name: str
    what: str
    precision: str
    edit: str
    model: str
    model_sha256: str
    flags: tuple[str, ...]
    layer_precisions: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Plan:
    """A build plan.

    Attributes:
        tensorrt: major.minor of the TensorRT that the model was lowered for; no other builds it.
        jetpack: the JetPack release that carries it; empty for a device that is no Jetson.
        cuda: the CUDA release that goes with it.
        compute_capability: of the device, `8.7`.
        device: name of the device's profile.
        model_sha256: of the model file.
        strongly_typed: whether the network is created strongly typed; precision is then in the graph alone.
        flags: builder flags of a weakly typed build: `fp16`, `int8`, `obey_precision_constraints`,
            and `tf32`, which is off without it.
        layer_precisions: per node name, the precision that a weakly typed build must keep it in.
        profiles: one a shape bucket.
        workspace_bytes: limit of the workspace memory pool.
        plugins: custom ops that the graph keeps, with their libraries.
        needs: what must be free on the device.
        inputs: the model's inputs, in its order.
        outputs: the model's outputs, in its order.
        gate: what the samples are held to, on the device as in the compile.
        sources: per node name, the layer of the user's model.
        weights: the model's external data file; None where the weights are in the model file.
        weights_sha256: of that file.
        model: the model's file.
        timing_cache: where the builder keeps its timing cache.
        optimization_level: TensorRT's builder optimization level.
        variants: other ways to build it, the most promising first; the plan itself is the first of all and
            stands in front of them. Empty where there is one way only.
    """

    tensorrt: str
    jetpack: str
    cuda: str
    compute_capability: str
    device: str
    model_sha256: str
    strongly_typed: bool
    flags: tuple[str, ...]
    layer_precisions: dict[str, str]
    profiles: tuple[ShapeProfile, ...]
    workspace_bytes: int
    plugins: tuple[PluginUse, ...]
    needs: Needs
    inputs: tuple[PlanTensor, ...]
    outputs: tuple[PlanTensor, ...]
    gate: Gate
    sources: dict[str, str]
    weights: str | None = None
    weights_sha256: str | None = None
    model: str = MODEL
    timing_cache: str = TIMING_CACHE
    optimization_level: int = 3
    variants: tuple[Variant, ...] = ()
    schema: int = SCHEMA

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return dataclasses.asdict(self)

    def write(self, folder: Path) -> None:
        """Write `plan.json` into the folder, the same bytes for the same plan."""
        write_json(folder / PLAN, self.to_json())

    @classmethod
    def read(cls, folder: Path) -> Plan:
        """Read `plan.json` from the folder.

        Raises:
            IntegrityError: it is missing, malformed, or of another schema.
        """
        path = folder / PLAN
        try:
            return _from_json(read_object(path))
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise IntegrityError(
                f"the build plan cannot be read ({error})", where=str(path), fix="compile the model again"
            ) from error


def _from_json(fields: Mapping[str, Any]) -> Plan:
    if fields["schema"] != SCHEMA:
        raise ValueError(f"schema {fields['schema']}, this edgec reads {SCHEMA}")
    files = {key: fields.get(key) for key in ("model", "weights", "timing_cache")}
    files |= {f"the model of variant {one['name']}": one["model"] for one in fields.get("variants", ())}
    for key, name in files.items():
        if name is not None and not is_inside(name):
            raise ValueError(f"{key} {name!r} is not a file of its own folder")
    known = {
        **fields,
        "flags": tuple(fields["flags"]),
        "profiles": tuple(
            ShapeProfile(
                {
                    name: ShapeRange(*(tuple(sizes[key]) for key in ("min", "opt", "max")))
                    for name, sizes in profile["inputs"].items()
                }
            )
            for profile in fields["profiles"]
        ),
        "plugins": tuple(PluginUse(**plugin) for plugin in fields["plugins"]),
        "variants": tuple(
            Variant(**{**one, "flags": tuple(one["flags"])}) for one in fields.get("variants", ())
        ),
        "needs": Needs(**fields["needs"]),
        "gate": Gate(**fields["gate"]),
        **{
            side: tuple(PlanTensor(one["name"], tuple(one["shape"]), one["dtype"]) for one in fields[side])
            for side in ("inputs", "outputs")
        },
    }
    return Plan(**known)
