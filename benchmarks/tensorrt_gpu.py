"""Jetson bundles in a real TensorRT 8 on a GPU: built, verified, and timed beside the plain export.

PyPI's `tensorrt==8.6.0` and `8.5.2.2` hold the real builder and parser; LIBRARIES is a folder with the `.so`
files of the wheel, as they are: the builder checks the digest of its kernels. Their headers are in
github.com/NVIDIA/TensorRT, `include/` of that release, and `NvOnnxParser.h` in github.com/onnx/onnx-tensorrt,
branch `8.6-GA` (not `8.6-EA`, whose parser has other virtual functions) or `8.5-GA`. The machine needs nvcc,
cmake, and edgec with torch and timm. The plugin library looks for cuBLAS 12 and cuDNN 8: where they are not
installed, stubs of them in LIBRARIES do, for nothing calls them. 8.5.2.2 without cuBLAS built no ViT on an
H200; it is let use cuBLAS 11 (PyPI's `nvidia-cublas-cu11`, in LIBRARIES too), which was not tried yet::

    python benchmarks/tensorrt_gpu.py setup WORK --libraries LIBRARIES --headers HEADERS
    python benchmarks/tensorrt_gpu.py compile WORK [ROW …]      # bundles, and the modules as plain exports
    python benchmarks/tensorrt_gpu.py build WORK [ROW …]        # engines, several at a time
    python benchmarks/tensorrt_gpu.py verify WORK [ROW …]       # verdicts, several at a time
    python benchmarks/tensorrt_gpu.py time WORK [ROW …]         # one row after the other, with nothing beside
    python benchmarks/tensorrt_gpu.py table WORK [--beside WORK]   # results/tensorrt_gpu.md

A second release takes a WORK of its own, with `bundles` linked to the first one's. `rows WORK` lists the
rows. `setup` compiles edgec's runner and plugins by their own CMakeLists.txt. Three things differ from a
Jetson: the plan's compute capability becomes this GPU's, the builder is told not to look for cuDNN, nor in
8.6 for cuBLAS, and there is no preview. Everything else is what a bundle ships: the engine is built and run
by `edgec-engine`, and judged by `edgec_engine`'s own `verify` on the bundle's samples: of every variant that
the plan has, and `edgec_engine.choice`'s rule is applied to their times. The plain export is
TorchScript's of the same module at opset 17 (16 for 8.5, whose parser has no LayerNormalization), built with
the fp16 flag and TensorRT's other defaults; it is beside the fp16 rows alone. Times are of CUDA graphs, the
median of 31 alternating blocks.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import functools
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

DEVICE = "jetson:agx-orin-64gb:jetpack5"
"""The one device profile whose TensorRT is 8; its compute capability is replaced."""

WORKERS = 6
"""Engines built at once. A build keeps one to two cores busy, and times its kernels beside the others'; those
of convolutional networks, which time the most, wait for each other on the GPU."""

NAMES = ("free_source", "free", "flag", "kept", "plain")
"""Variants of a plan that are built for every fp16 row."""

TACTICS = """
    // cuBLAS, cuBLASLt, the edge mask and JIT convolutions; from 8.6 on the last two.
    config->setTacticSources(NV_TENSORRT_MINOR < 6 ? 27U : 24U);
"""
"""The builder's line that leaves out the libraries that the machine need not have."""

TREE = Path(__file__).resolve().parents[1]


@dataclasses.dataclass(frozen=True)
class Row:
    """One bundle.

    Attributes:
        model: as the command line names it.
        precision: `fp32` or `fp16`.
        batch: batch size.
        tokens: a schedule, `off` for none.
    """

    model: str
    precision: str
    batch: int
    tokens: str = "off"

    @property
    def name(self) -> str:
        """The row's name, also of its files."""
        words = [self.model.partition(":")[2], f"b{self.batch}", self.precision]
        if self.tokens != "off":
            words.insert(1, self.tokens.replace(":", "-").replace("=", ""))
        return "_".join(words)

    @property
    def export(self) -> str:
        """The name of the plain export that it is timed beside."""
        return f"{self.model.partition(':')[2]}_b{self.batch}"


ZOO = (
    *(
        "deit_tiny",
        "deit_small",
        "swin_tiny",
        "efficientformer_l1",
        "mobilevit_s",
        "poolformer_s12",
        "caformer_s18",
    ),
    *("cait_xxs24", "edgenext_small", "minilm", "vit_shapes"),
)

REDUCED = tuple(
    (model, batch, tokens)
    for model, tokens in (
        ("zoo:vit_shapes", "3:80+6:40"),
        ("zoo:deit_small", "r=13"),
        ("zoo:deit_small", "prune:r=13"),
        ("zoo:deit_tiny", "3:80+6:40"),
        ("zoo:minilm", "2:32+4:32"),
    )
    for batch in (8, 1)
)

UNSEEN = ("timm:deit_tiny_distilled_patch16_224", "timm:vit_small_patch14_reg4_dinov2")

ROWS = (
    *(
        Row(f"zoo:{model}", precision, batch)
        for model in ZOO
        for batch in (1, 8)
        for precision in ("fp32", "fp16")
    ),
    *(
        Row(model, precision, batch, tokens)
        for model, batch, tokens in REDUCED
        for precision in ("fp32", "fp16")
    ),
    *(Row(model, "fp16", 1) for model in UNSEEN),
)


class Work:
    """A folder that holds everything, and the programs made in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.runner = self.folder / "runner" / "edgec-engine"
        self.timer = self.folder / "tensorrt_gpu"

    def at(self, *parts: str) -> Path:
        """A path in the folder, its parent made."""
        path = self.folder.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def release(self) -> str:
        """The release of TensorRT that it was set up for: `8.6.0`."""
        on: dict[str, str] = json.loads((self.folder / "machine.json").read_text(encoding="utf-8"))
        return on["tensorrt"]

    def export(self, row: Row) -> Path:
        """The plain export that a row is timed beside."""
        return self.at("exports", f"{row.export}_opset{self.opset}.onnx")

    @property
    def opset(self) -> int:
        """The newest opset of which this release's parser takes a transformer's export."""
        return 16 if self.release.startswith("8.5.") else 17

    @property
    def plugins(self) -> list[Path]:
        """The compiled plugin libraries."""
        return sorted(self.at("plugins", "x").parent.glob("*.so"))

    def run(self, words: list[object], log: str, limit: float = 900) -> str:
        """Run a program with TensorRT's libraries; its standard output.

        Raises:
            RuntimeError: it failed; says the end of what it said.
        """
        found = f"{self.folder / 'libraries'}:/usr/local/cuda/lib64:{os.environ.get('LD_LIBRARY_PATH', '')}"
        environment = {**os.environ, "LD_LIBRARY_PATH": found, "CUDA_MODULE_LOADING": "LAZY"}
        done = subprocess.run(
            list(map(str, words)), env=environment, capture_output=True, text=True, timeout=limit
        )
        self.at("logs", f"{log}.log").write_text(f"{words}\n{done.stdout}\n{done.stderr}", encoding="utf-8")
        if done.returncode != 0:
            raise RuntimeError(f"{log}: status {done.returncode}: {done.stderr.strip()[-600:]}")
        return done.stdout


def setup(work: Work, libraries: Path, headers: Path) -> None:
    """Lay out the libraries, and compile the runner, the plugins and the timer."""
    from edgec.plugins.bindings import tensorrt

    folder = work.at("libraries", "x").parent
    for library in libraries.glob("*.so*"):
        shutil.copy(library, folder / library.name)
    for stem in ("nvinfer", "nvonnxparser", "nvinfer_plugin"):
        link = folder / f"lib{stem}.so"
        link.unlink(missing_ok=True)
        link.symlink_to(f"lib{stem}.so.8")
    source = work.at("source", "x").parent
    shutil.rmtree(source)
    shutil.copytree(TREE / "targets/jetson/on_device/cpp", source / "runner")
    builder = source / "runner/source/builder.cpp"
    before = "    config->clearFlag(nvinfer1::BuilderFlag::kTF32);\n"
    text = builder.read_text(encoding="utf-8")
    assert before in text
    builder.write_text(text.replace(before, before + TACTICS), encoding="utf-8")
    tensorrt.write_sources(source / "plugins", tensorrt.libraries())
    capability = compute_capability().replace(".", "")
    found = [
        f"-DTENSORRT_INCLUDE={headers.resolve()}",
        f"-DNVINFER={folder / 'libnvinfer.so'}",
        f"-DNVONNXPARSER={folder / 'libnvonnxparser.so'}",
        f"-DCMAKE_CUDA_ARCHITECTURES={capability}",
        "-DCMAKE_CXX_FLAGS=-Wno-deprecated-declarations",
        f"-DCMAKE_SHARED_LINKER_FLAGS=-Wl,-rpath-link,{folder}",
        f"-DCMAKE_EXE_LINKER_FLAGS=-Wl,-rpath-link,{folder}",
    ]
    for name in ("runner", "plugins"):
        work.run(["cmake", "-S", source / name, "-B", work.folder / name, *found], f"configure_{name}")
        work.run(["cmake", "--build", work.folder / name, "--parallel", "8"], f"compile_{name}")
    flags = [
        "-std=c++17",
        "-O2",
        "-Wall",
        "-Wextra",
        "-isystem",
        headers,
        "-isystem",
        "/usr/local/cuda/include",
    ]
    places = ["-L", folder, "-L/usr/local/cuda/lib64", f"-Wl,-rpath-link,{folder}"]
    linked = [f"-l{name}" for name in ("nvinfer", "nvonnxparser", "nvinfer_plugin", "cudart", "dl")]
    program = TREE / "benchmarks/tensorrt_gpu.cpp"
    work.run(["g++", *flags, "-o", work.timer, program, *places, *linked], "compile_timer")
    work.at("machine.json").write_text(json.dumps(machine(headers)), encoding="utf-8")


def machine(headers: Path) -> dict[str, str]:
    """The GPU, its driver, and the TensorRT of the headers."""
    words = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    said = subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()[0]
    gpu, driver = (word.strip() for word in said.split(","))
    text = (headers / "NvInferVersion.h").read_text(encoding="utf-8")
    parts = [re.search(rf"NV_TENSORRT_{part} (\d+)", text) for part in ("MAJOR", "MINOR", "PATCH")]
    return {"gpu": gpu, "driver": driver, "tensorrt": ".".join(part.group(1) for part in parts if part)}


def compute_capability() -> str:
    """Of the first GPU: `9.0`."""
    words = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()[0].strip()


def compile_row(work: Work, row: Row) -> None:
    """Compile a row's bundle in a process of its own, and write down edgec's verdict."""
    code = (
        f"import sys; sys.path.insert(0, {str(TREE / 'benchmarks')!r}); import tensorrt_gpu; "
        "tensorrt_gpu.compile_here(*sys.argv[1:])"
    )
    bundle = work.at("bundles", row.name)
    if bundle.exists():
        return
    made = bundle.with_name(f"{row.name}.partial")
    words = [row.model, row.precision, row.batch, row.tokens, work.release.rpartition(".")[0], made]
    try:
        work.run([sys.executable, "-c", code, *words], f"compile_{row.name}")
    except RuntimeError:
        work.at("logs", f"compile_{row.name}.failed").touch()
        raise
    plan = json.loads((made / "engine/plan.json").read_text(encoding="utf-8"))
    plan["compute_capability"] = compute_capability()
    (made / "engine/plan.json").write_text(json.dumps(plan), encoding="utf-8")
    made.rename(bundle)


def compile_here(model: str, precision: str, batch: str, tokens: str, release: str, bundle: str) -> None:
    """Compile in this process, without a preview: it takes tensorrt-rtx, which the machine need not have."""
    import edgec
    import edgec.targets.jetson.target as jetson
    from edgec.targets.jetson.devices import device
    from edgec.targets.jetson.preview import Preview
    from edgec.targets.jetson.versions import dialect

    had = device(DEVICE.partition(":")[2])
    jetson.device = lambda _: dataclasses.replace(had, tensorrt=release, dialect=dialect(release))
    jetson.preview = lambda *_, **__: Preview("none: no tensorrt-rtx on this machine", b"", 0, 0.0)
    edgec.compile(model, target=DEVICE, output=bundle, precision=precision, batch=int(batch), tokens=tokens)


def export_row(work: Work, row: Row) -> None:
    """Export a row's module as users do, with TorchScript's `torch.onnx.export`."""
    path = work.export(row)
    if path.exists():
        return
    code = (
        f"import sys; sys.path.insert(0, {str(TREE / 'benchmarks')!r}); import tensorrt_gpu; "
        "tensorrt_gpu.export_here(*sys.argv[1:])"
    )
    words = [row.model, row.batch, work.opset, path]
    try:
        work.run([sys.executable, "-c", code, *words], f"export_{row.export}")
    except RuntimeError:
        work.at("logs", f"export_{row.export}.failed").touch()
        raise


def export_here(model: str, batch: str, opset: str, path: str) -> None:
    """Export in this process; the weights are those that edgec draws."""
    import torch

    from edgec.zoo.loading import _drawn, module

    kind, _, name = model.partition(":")
    network, examples = module(name) if kind == "zoo" else _drawn(name, 0)
    names = ["image"] if len(examples) == 1 else list(inspect.signature(network.forward).parameters)
    inputs = tuple(example.repeat(int(batch), *[1] * (example.dim() - 1)) for example in examples)
    scratch = f"{path}.partial"
    with torch.no_grad():
        torch.onnx.export(network, inputs, scratch, dynamo=False, opset_version=int(opset), input_names=names)
    Path(scratch).rename(path)


def engine_of(work: Work, kind: str, name: str) -> Path:
    """Where an engine is: of kind `edgec` by its row, or `plain` by its export."""
    return work.at("engines", kind, name, "model.engine")


def variants(work: Work, row: Row) -> list[dict[str, Any]]:
    """The variants of a compiled row's plan; a plan without any is one of its own, without a name."""
    path = work.at("bundles", row.name) / "engine/plan.json"
    if not path.exists():
        return []
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")).get("variants")
    return found or [{"name": "", "precision": "", "edit": ""}]


def variant_engine(work: Work, row: Row, name: str) -> Path:
    """Where a variant's engine is."""
    return work.at("engines", "edgec", row.name, name or "own", "model.engine")


def build_variant(work: Work, row: Row, name: str) -> None:
    """Build one of the bundle's variants with edgec's own runner, when the bundle is there."""
    wait_for(work.at("bundles", row.name) / "report.json", work.at("logs", f"compile_{row.name}.failed"))
    if name not in [one["name"] for one in variants(work, row)]:
        return
    engine = variant_engine(work, row, name)
    if engine.exists():
        return
    state = engine.parent / "plugins"
    state.mkdir(exist_ok=True)
    for library in work.plugins:
        shutil.copy(library, state)
    words: list[object] = [work.runner, "build", work.at("bundles", row.name), engine]
    work.run(words + ["--variant", name] * bool(name), f"build_{row.name}_{name}")


def wait_for(path: Path, failed: Path, limit: float = 600) -> None:
    """Wait until a file is there, which another step is writing.

    Raises:
        RuntimeError: that step failed, or takes longer.
    """
    end = time.monotonic() + limit
    while not path.exists():
        if failed.exists() or time.monotonic() > end:
            raise RuntimeError(f"{path} is not there")
        time.sleep(0.5)


def build_export(work: Work, row: Row) -> None:
    """Build the plain export with TensorRT's defaults and the fp16 flag."""
    engine = engine_of(work, "plain", row.export)
    if engine.exists():
        return
    wait_for(work.export(row), work.at("logs", f"export_{row.export}.failed"))
    kept = engine.with_name("timing.cache")
    words = [work.timer, "build", work.export(row), engine, "fp16", f"cache={kept}"]
    work.run(words, f"plain_{row.export}")


class Shipped:
    """The runner that a bundle ships, for `edgec_engine.verification`."""

    def __init__(self, work: Work, row: Row, variant: str) -> None:
        self.work, self.row, self.variant = work, row, variant

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once, through files."""
        folder = self.work.at("arrays", self.row.name, self.variant or "own", "x").parent
        words: list[object] = [self.work.runner, "run", self.work.at("bundles", self.row.name)]
        words += [variant_engine(self.work, self.row, self.variant), "--output", folder]
        for name, array in feeds.items():
            np.save(folder / f"{name}.in.npy", array)
            words += ["--input", f"{name}={folder / f'{name}.in.npy'}"]
        said = self.work.run(words, f"run_{self.row.name}_{self.variant}")
        names = [line.split(" ")[0] for line in said.splitlines() if line]
        return {name: np.load(folder / f"{name.replace('/', '_')}.npy") for name in names}


def verify_row(work: Work, row: Row) -> None:
    """Write down both verdicts."""
    bundle = work.at("bundles", row.name)
    found: dict[str, Any] = {**dataclasses.asdict(row), "name": row.name}
    if bundle.exists():
        numerics = json.loads((bundle / "report.json").read_text(encoding="utf-8"))["numerics"]
        found["edgec"], found["emulated"] = "passed", numerics["gates"][-1]
        found["variants"] = {}
        for one in variants(work, row):
            if variant_engine(work, row, one["name"]).exists():
                try:
                    found["variants"][one["name"]] = _verified(work, row, bundle, one["name"])
                except RuntimeError as error:
                    found["failed"] = str(error)
        if row.precision == "fp16":
            _expect_of_export(work, row, bundle)
    else:
        found["edgec"] = "refused"
        log = work.at("logs", f"compile_{row.name}.log")
        found["failed"] = log.read_text(encoding="utf-8").strip().splitlines()[-1]
    work.at("verified", f"{row.name}.json").write_text(json.dumps(found), encoding="utf-8")


def _verified(work: Work, row: Row, bundle: Path, variant: str) -> dict[str, Any]:
    """What ships with the bundle judges it."""
    if "edgec_engine" not in sys.modules:
        sys.path.insert(0, str(bundle / "device"))
    from edgec_engine import verification
    from edgec_engine.plan import Plan

    result: dict[str, Any] = verification.verify(Plan.read(str(bundle)), Shipped(work, row, variant))
    return result


def _expect_of_export(work: Work, row: Row, bundle: Path) -> None:
    """What ONNX Runtime computes of the plain export on the bundle's first sample: its first output."""
    import onnxruntime

    export = work.export(row)
    if not export.exists():
        return
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    session = onnxruntime.InferenceSession(export, options, providers=["CPUExecutionProvider"])
    with np.load(bundle / "samples/0.inputs.npz") as feeds:
        output = session.run(None, {one.name: feeds[one.name] for one in session.get_inputs()})[0]
    name = session.get_outputs()[0].name
    np.savez(work.at("expected", f"{row.name}.npz"), **{name.replace("/", "_"): output})


def time_rows(work: Work, rows: list[Row]) -> None:
    """Write down the times of each row's engine, beside the plain export's where the row is fp16."""
    groups: dict[Path, Row] = {}
    words: list[object] = [*work.plugins]
    for row in rows:
        names = [one["name"] for one in variants(work, row)]
        engines = {name or "own": variant_engine(work, row, name) for name in names}
        if not any(engine.exists() for engine in engines.values()):
            continue
        if row.precision == "fp16":
            engines["export"] = engine_of(work, "plain", row.export)
        folder = work.at("inputs", row.name, "x").parent
        with np.load(work.at("bundles", row.name) / "samples/0.inputs.npz") as feeds:
            for name in feeds.files:
                array = feeds[name]
                narrow = np.int32 if array.dtype.kind in "iu" else array.dtype
                array.astype(narrow).tofile(folder / f"{name}.raw")
        groups[folder] = row
        words += ["--", folder, *(f"{kind}={path}" for kind, path in engines.items() if path.exists())]
    if not groups:
        return
    found: dict[Path, dict[str, Any]] = {folder: {} for folder in groups}
    for line in work.run([work.timer, "time", *words], f"time_{rows[0].name}").splitlines():
        told = json.loads(line)
        here = found[Path(told["folder"])]
        if "untimed" in told:
            here["untimed"] = told["untimed"]
        else:
            times = {key: told[key] for key in ("layers", "graph", "stream")}
            if told["name"] == "export":
                here["export_time"] = times
            else:
                here.setdefault("times", {})[told["name"]] = times
    for folder, here in found.items():
        row = groups[folder]
        if "export_time" in here:
            here["plain_off"] = _plain_error(work, row, folder)
        work.at("timed", f"{row.name}.json").write_text(json.dumps(here), encoding="utf-8")


def _plain_error(work: Work, row: Row, folder: Path) -> float | None:
    """How far the plain engine's first output is from ONNX Runtime's, over its spread."""
    path = work.at("expected", f"{row.name}.npz")
    if not path.exists():
        return None
    with np.load(path) as kept:
        (name,) = kept.files
        expected = kept[name]
    actual = np.fromfile(folder / f"export.{name}.raw", expected.dtype).reshape(expected.shape)
    return float(np.abs(actual - expected).max() / expected.std())


def main() -> None:
    """One step for the rows named, all where none is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", choices=("setup", "compile", "build", "verify", "time", "table", "rows"))
    parser.add_argument("work", type=Path)
    parser.add_argument("rows", nargs="*")
    parser.add_argument("--libraries", type=Path)
    parser.add_argument("--headers", type=Path)
    parser.add_argument("--workers", type=int, default=WORKERS)
    parser.add_argument("--edits", action="store_true", help="build also the variants with an edited graph")
    parser.add_argument("--variants", nargs="+", default=NAMES, help="those to build of the fp16 rows")
    parser.add_argument("--beside", type=Path, action="append", default=[])
    options = parser.parse_args()
    work = Work(options.work)
    known = {row.name: row for row in ROWS}
    unknown = set(options.rows) - known.keys()
    if unknown:
        parser.error(f"no such rows: {', '.join(sorted(unknown))}")
    rows = [known[name] for name in options.rows] or list(ROWS)
    if options.step == "rows":
        print("\n".join(row.name for row in rows))
    elif options.step == "setup":
        setup(work, options.libraries, options.headers)
    elif options.step == "compile":
        steps = [(export_row, row) for row in _exports(rows)] + [(compile_row, row) for row in rows]
        _all(work, steps, options.workers)
    elif options.step == "build":
        exports = {id(row) for row in _exports([row for row in rows if row.precision == "fp16"])}
        steps = []
        for row in rows:
            steps += [(build_export, row)] * (id(row) in exports)
            names = options.variants if row.precision == "fp16" else ("",)
            steps += [(functools.partial(build_variant, name=name), row) for name in names]
        if options.edits:
            edited = [f"{types}_one_row" for types in ("flag", "plain", "kept")]
            steps += [(functools.partial(build_variant, name=name), row) for row in rows for name in edited]
        _all(work, steps, options.workers)
    elif options.step == "verify":
        _all(work, [(verify_row, row) for row in rows], options.workers)
    elif options.step == "time":
        time_rows(work, rows)
    else:
        from tensorrt_gpu_table import publish

        publish([work.folder, *(beside.resolve() for beside in options.beside)], [row.name for row in rows])


def _exports(rows: list[Row]) -> list[Row]:
    """The first row of each plain export."""
    kept: dict[str, Row] = {}
    for row in rows:
        kept.setdefault(row.export, row)
    return list(kept.values())


def _all(work: Work, steps: list[Any], workers: int) -> None:
    def one(step: Any) -> str:
        started = time.monotonic()
        try:
            step[0](work, step[1])
            said = "done"
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            said = str(error)
        what = getattr(step[0], "__name__", "") or f"build_variant {step[0].keywords['name']}"
        line = f"{what} {step[1].name}: {time.monotonic() - started:.0f} s, {said}"
        print(line, flush=True)
        return line

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        list(pool.map(one, steps))


if __name__ == "__main__":
    main()
