"""Building the engine: TensorRT's parser and builder, told what the plan says.

One code for TensorRT 8.5 to 11. What a release lacks is seen by its attributes, not by its number: progress
(from 10), optimization levels (from 8.6), strongly typed networks (from 10), builder flags for precision and
precisions of layers (until 10).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import re
import time
from typing import Any, Callable, Iterator

from edgec_engine import engine_file, machine, plugins
from edgec_engine.build_progress import monitor
from edgec_engine.errors import DeviceError
from edgec_engine.plan import Plan, sha256, write_atomically
from edgec_engine.tensorrt_module import PORTABLE, logger, said, tensorrt

Say = Callable[[str], None]

_LEAST = 32 << 20
"""Bytes of workspace under which no build is tried again."""

_TYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def build(plan: Plan, say: Say) -> dict[str, Any]:
    """Build an engine, whatever is there; the caller holds `alone`.

    Where the device's memory is too small for the plan's workspace, it is built with less, which is said.

    Args:
        plan: the plan, or that of one of its variants.
        say: told each step.

    Returns:
        the sidecar.

    Raises:
        DeviceError: why it cannot be built; no engine is left half written.
    """
    device = this_machine(plan)
    started = time.time()
    libraries = plugins.prepare(plan, say)
    trt = tensorrt()
    log = logger(trt)
    plugins.check_registered(trt, log, plan)
    builder = trt.Builder(log)
    say("parsing the model")
    network, parser = _parse(trt, builder, log, plan)
    config = _configure(trt, builder, network, plan)
    progress = monitor(trt, say)
    if progress is not None:
        config.progress_monitor = progress
    cache = _with_timing_cache(config, plan, say)
    notes = [] if plan.fields["strongly_typed"] else _weak_precision(trt, network, config, plan)
    say(f"building the engine with TensorRT {trt.__version__}")
    serialized = _within_memory(trt, builder, network, config, log, plan, notes, say)
    del parser  # holds the weights that the network points to, so it must outlive the build
    data = bytes(memoryview(serialized))
    _keep_timing_cache(config, cache, plan)
    sidecar = {
        "schema": 1,
        **device,
        "engine_sha256": hashlib.sha256(data).hexdigest(),
        "engine_bytes": len(data),
        "model_sha256": plan.fields["model_sha256"],
        "plan_sha256": sha256(plan.bundle / "engine" / "plan.json"),
        "plugins": libraries,
        "built": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": round(time.time() - started, 3),
        "notes": notes,
        "variant": plan.fields.get("variant", ""),
    }
    engine_file.write(plan, data, sidecar)
    return sidecar


def _within_memory(
    trt: Any, builder: Any, network: Any, config: Any, log: Any, plan: Plan, notes: list[str], say: Say
) -> Any:
    """The serialized engine; built with a smaller and smaller workspace while memory is what it lacks."""
    workspace = int(plan.fields["workspace_bytes"])
    while True:
        serialized = builder.build_serialized_network(network, config)
        if serialized is not None:
            return serialized
        why = said(log)
        if not re.search(r"out of memory|OutOfMemory|insufficient memory", why, re.I) or workspace <= _LEAST:
            raise DeviceError(
                f"TensorRT {trt.__version__} does not build the engine: {why}",
                "compile again with other --passes, or report the node it names",
            )
        workspace //= 4
        note = f"the device's memory was too small: built with a workspace of {workspace >> 20} MB"
        say(note)
        notes.append(note)
        log.errors.clear()
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)


def this_machine(plan: Plan) -> dict[str, Any]:
    """What an engine is bound to: `gpu`, `compute_capability`, `tensorrt` and `tensorrt_module`."""
    facts = machine.describe(plan.state)
    if facts["tensorrt"] is None:
        tensorrt()  # says why it does not load
    device = {key: facts[key] for key in ("gpu", "compute_capability", "tensorrt", "tensorrt_module")}
    if device["tensorrt_module"] == PORTABLE and device["gpu"] is None:
        # Built for a capability, not on a GPU.
        device["compute_capability"] = "8.6"
    return device


def _parse(trt: Any, builder: Any, log: Any, plan: Plan) -> tuple[Any, Any]:
    # Strong types exist from 10 on, an explicit batch is the only kind from 10 on and no flag in 11.
    names = ["EXPLICIT_BATCH"] + (["STRONGLY_TYPED"] if plan.fields["strongly_typed"] else [])
    flags = 0
    for name in names:
        flag = getattr(trt.NetworkDefinitionCreationFlag, name, None)
        if flag is not None:
            flags |= 1 << int(flag)
        elif name == "STRONGLY_TYPED":
            raise DeviceError(
                f"the plan has its precision in the graph, which TensorRT {trt.__version__} does not know",
                "compile again for this device's JetPack",
            )
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(plan.model)):
        errors = [_parser_error(parser.get_error(index), plan) for index in range(parser.num_errors)]
        raise DeviceError(
            "TensorRT {} does not take the model: {}".format(trt.__version__, "; ".join(errors) or said(log)),
            "compile again for this TensorRT",
        )
    return network, parser


def _parser_error(error: Any, plan: Plan) -> str:
    text = " ".join(error.desc().split())
    if not hasattr(error, "node_name"):
        return text
    name = error.node_name()
    layer = plan.sources.get(name)
    return "{} {!r}{}: {}".format(error.node_operator(), name, f" (layer {layer})" if layer else "", text)


def _configure(trt: Any, builder: Any, network: Any, plan: Plan) -> Any:
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(plan.fields["workspace_bytes"]))
    # Layer names with the ONNX nodes they came from, for the profile; costs nothing at run time.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    # On by default, and as coarse as fp16: what is fp32 in the graph was judged in fp32.
    tf32 = getattr(trt.BuilderFlag, "TF32", None)
    if tf32 is not None:
        config.clear_flag(tf32)
    level = plan.fields.get("optimization_level")
    if level is not None and hasattr(config, "builder_optimization_level"):
        config.builder_optimization_level = int(level)
    if trt.__name__ == PORTABLE and hasattr(config, "num_compute_capabilities"):
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    known = {network.get_input(index).name for index in range(network.num_inputs)}
    for shapes in plan.profiles:
        unknown = sorted(set(shapes) - known)
        if unknown:
            raise DeviceError(
                "the plan has a profile for {}, the model has {}".format(
                    ", ".join(unknown), ", ".join(sorted(known))
                ),
                "compile the model again",
            )
        profile = builder.create_optimization_profile()
        for name, ranges in shapes.items():
            profile.set_shape(name, tuple(ranges["min"]), tuple(ranges["opt"]), tuple(ranges["max"]))
        if config.add_optimization_profile(profile) < 0:
            raise DeviceError(f"TensorRT refuses the shapes {shapes}", "compile the model again")
    return config


def _weak_precision(trt: Any, network: Any, config: Any, plan: Plan) -> list[str]:
    """Precision by builder flags, with layers that keep another one; what could not be honoured is said."""
    for name in plan.fields["flags"]:
        flag = getattr(trt.BuilderFlag, name.upper(), None)
        if flag is None:
            raise DeviceError(
                f"the plan asks for the builder flag {name}, which TensorRT {trt.__version__} does not have",
                "compile again for this device's JetPack",
            )
        config.set_flag(flag)
    kept = plan.fields["layer_precisions"]
    if not kept:
        return []
    if not hasattr(trt.BuilderFlag, "OBEY_PRECISION_CONSTRAINTS"):
        raise DeviceError(
            f"TensorRT {trt.__version__} has no precisions of layers",
            "compile again for this device's JetPack",
        )
    config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    floats = {getattr(trt, name) for name in _TYPES.values() if hasattr(trt, name)}
    met = set()
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        node = _node_of(layer, kept)
        if node is None:
            continue
        outputs = [number for number in range(layer.num_outputs) if layer.get_output(number).dtype in floats]
        met.add(node)
        if layer.type == trt.LayerType.CONSTANT or not outputs:
            continue
        kind = getattr(trt, _TYPES[kept[node]])
        layer.precision = kind
        for number in outputs:
            layer.set_output_type(number, kind)
    return [f"no layer of {node} was found to keep it in {kept[node]}" for node in sorted(set(kept) - met)]


def _node_of(layer: Any, nodes: dict[str, str]) -> Any:
    """The ONNX node that a layer was made for, if it is one of `nodes`.

    The parser records it in the layer's metadata from 8.6 on; before, a layer carries the node's name, with a
    number behind it where the node became several.
    """
    match = re.search(r"\[ONNX Layer: (.*?)\]", getattr(layer, "metadata", "") or "")
    if match:
        return match.group(1) if match.group(1) in nodes else None
    if layer.name in nodes:
        return layer.name
    stem = re.sub(r"_\d+$", "", layer.name)
    return stem if stem in nodes else None


def _with_timing_cache(config: Any, plan: Plan, say: Say) -> Any:
    try:
        kept = plan.timing_cache.read_bytes()
    except OSError:
        kept = b""
    cache = config.create_timing_cache(kept)
    if kept and cache is not None and config.set_timing_cache(cache, False):
        say("using what was timed before")
        return cache
    # Nothing there, or of another device or release.
    cache = config.create_timing_cache(b"")
    if cache is not None:
        config.set_timing_cache(cache, False)
    return cache


def _keep_timing_cache(config: Any, cache: Any, plan: Plan) -> None:
    if cache is not None:
        write_atomically(plan.timing_cache, bytes(memoryview(config.get_timing_cache().serialize())))


@contextlib.contextmanager
def alone(plan: Plan) -> Iterator[None]:
    """One build at a time in a state folder; the lock goes with the process."""
    try:
        plan.state.mkdir(parents=True, exist_ok=True)
        file = (plan.state / ".lock").open("w")
    except OSError as error:
        raise DeviceError(
            f"{plan.state}: cannot be written ({error.strerror})",
            "name another folder with --state",
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DeviceError(
                f"another build runs in {plan.state}", "wait for it, or name another --state"
            ) from error
        yield
