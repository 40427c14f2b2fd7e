"""Broken and hostile models, bundles and inputs through the commands, each in a process of its own.

    python benchmarks/fuzz.py --cases 2000              # `make fuzz`
    python benchmarks/fuzz.py --first 1234 --cases 1    # one case again; its files stay in --folder

A case is drawn from its number alone. It passes where the command ends by itself, within the time and the
memory, with status 0, 1 or 2, without a traceback and without what edgec calls a bug of its own, and wrote
nothing outside its folder. What does not pass is one line of JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import io
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SECONDS = 60
"""Longest time of a case."""

BYTES = 4 << 30
"""Most memory of a case: what it may map besides what the parent has already."""

SIGNATURE = "model.sig"
"""It signs the manifest and is not in it."""

TARGETS = ("x86:ort", "x86:openvino", "coreml", "jetson")

WORDS = ("", "x", "y", "\0", "a\nb", "../../x", "\u202eevil", "\ud800", "n" * 5000, '"""', "$(id)", "{{7*7}}")

Rng = np.random.Generator


@dataclasses.dataclass
class Case:
    """One case, in a folder of its own.

    Attributes:
        number: what it is drawn from.
        kind: what was broken.
        arguments: the command line.
    """

    number: int
    kind: str
    arguments: list[str]


def models() -> list[onnx.ModelProto]:
    """Small sound models with what files have: weights, branches, loops, functions, constants, shapes."""
    rng = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(rng.standard_normal(shape, dtype=np.float32), name)

    def value(name: str, shape: list[int | str], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, shape)

    def model(nodes, inputs, outputs, weights=(), functions=()) -> onnx.ModelProto:  # type: ignore[no-untyped-def]
        graph = helper.make_graph(nodes, "g", inputs, outputs, list(weights))
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
        made = helper.make_model(graph, opset_imports=opsets, functions=list(functions))
        made.ir_version = 9
        return made

    node = helper.make_node
    dense = model(
        [node("MatMul", ["x", "w"], ["m"]), node("Add", ["m", "b"], ["a"]), node("Relu", ["a"], ["y"])],
        [value("x", [1, 3, 8])],
        [value("y", [1, 3, 4])],
        [weight("w", 8, 4), weight("b", 4)],
    )
    shaped = model(
        [
            node("Conv", ["x", "w"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            node("Shape", ["c"], ["s"]),
            node("ConstantOfShape", ["s"], ["z"]),
            node("Add", ["c", "z"], ["d"]),
            node("Reshape", ["d", "r"], ["e"]),
            node("Softmax", ["e"], ["y"], axis=-1),
        ],
        [value("x", [1, 3, 8, 8])],
        [value("y", [1, 4, 64])],
        [weight("w", 4, 3, 3, 3), numpy_helper.from_array(np.array([1, 4, 64]), "r")],
    )
    then = helper.make_graph([node("Neg", ["x"], ["t"])], "then", [], [value("t", [2])])
    other = helper.make_graph([node("Abs", ["x"], ["o"])], "else", [], [value("o", [2])])
    body = helper.make_graph(
        [node("Identity", ["go"], ["on"]), node("Add", ["v", "x"], ["next"])],
        "body",
        [value("i", [], TensorProto.INT64), value("go", [], TensorProto.BOOL), value("v", [2])],
        [value("on", [], TensorProto.BOOL), value("next", [2])],
    )
    control = model(
        [
            node("If", ["c"], ["a"], then_branch=then, else_branch=other),
            node("Loop", ["n", "", "a"], ["y"], body=body),
        ],
        [value("x", [2])],
        [value("y", [2])],
        [numpy_helper.from_array(np.array(True), "c"), numpy_helper.from_array(np.array(3), "n")],
    )
    inner = helper.make_function(
        "own", "Inner", ["a"], ["b"], [node("Tanh", ["a"], ["b"])], model([], [], []).opset_import
    )
    outer = helper.make_function(
        "own",
        "Outer",
        ["a"],
        ["b"],
        [node("Inner", ["a"], ["t"], domain="own"), node("Mul", ["t", "a"], ["b"])],
        model([], [], []).opset_import,
    )
    called = model(
        [node("Outer", ["x"], ["m"], domain="own"), node("Outer", ["m"], ["y"], domain="own")],
        [value("x", [2, 3])],
        [value("y", [2, 3])],
        functions=[inner, outer],
    )
    return [dense, shaped, control, called]


def _graphs(model: onnx.ModelProto) -> list[onnx.GraphProto | onnx.FunctionProto]:
    found: list[onnx.GraphProto | onnx.FunctionProto] = [model.graph, *model.functions]
    for graph in found:
        for node in graph.node:
            found.extend(attribute.g for attribute in node.attribute if attribute.HasField("g"))
    return found


def _break_model(model: onnx.ModelProto, rng: Rng) -> str:
    """Break one thing of a model; returns what."""
    graph = _pick(_graphs(model), rng)
    node = _pick(list(graph.node), rng) if graph.node else onnx.NodeProto()
    weights = list(getattr(graph, "initializer", []))
    names = sorted({name for one in graph.node for name in (*one.input, *one.output)} | {""})
    values = [*getattr(graph, "input", []), *getattr(graph, "output", [])]
    values = [one for one in values if isinstance(one, onnx.ValueInfoProto)]
    number = int(_pick([-1, 0, 1, 3, 7, 2**31, 2**40, -(2**63)], rng))

    def rewire(side: str) -> None:
        ends = getattr(node, side)
        if ends:
            ends[int(rng.integers(len(ends)))] = str(_pick(names, rng))

    def attribute() -> None:
        if node.attribute:
            one = _pick(list(node.attribute), rng)
            choice = int(rng.integers(5))
            if choice == 0:
                one.ref_attr_name = "alpha"
            elif choice == 1:
                one.type = int(rng.integers(0, 15))  # type: ignore[assignment]
            elif choice == 2:
                one.i, one.type = max(min(number, 2**63 - 1), -(2**63)), onnx.AttributeProto.INT
            elif choice == 3:
                one.ints.append(max(min(number, 2**63 - 1), -(2**63)))
            else:
                one.name = "axis"

    def tensor() -> None:
        if weights:
            one = _pick(weights, rng)
            choice = int(rng.integers(6))
            if choice == 0 and one.dims:
                one.dims[int(rng.integers(len(one.dims)))] = number
            elif choice == 1:
                one.raw_data = one.raw_data[: len(one.raw_data) // 2]
            elif choice == 2:
                one.data_type = int(rng.integers(0, 40))
            elif choice == 3:
                one.data_location = TensorProto.EXTERNAL
                entry = one.external_data.add()
                entry.key, entry.value = "location", str(_pick([*WORDS[:7], "/etc/passwd", "m.onnx"], rng))
            elif choice == 4:
                one.dims.append(max(number, 0))
            else:
                one.name = str(_pick(names, rng))

    def declared() -> None:
        if values:
            shape = _pick(values, rng).type.tensor_type
            if rng.integers(2):
                shape.elem_type = int(rng.integers(0, 30))
            else:
                shape.shape.dim.add().dim_value = max(min(number, 2**62), -(2**62))

    def operation() -> None:
        known = sorted({schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain})
        node.op_type = str(_pick([*known, "Inner", "Outer", "Nope", ""], rng))

    def call() -> None:
        node.domain, node.op_type = "own", str(_pick(["Outer", "Inner"], rng))

    def rename() -> None:
        word = str(_pick(list(WORDS[:7]) + list(WORDS[8:]), rng))
        if rng.integers(2):
            node.name = word
        elif node.output:
            node.output[0] = word

    actions: dict[str, Callable[[], object]] = {
        "input rewired": lambda: rewire("input"),
        "output rewired": lambda: rewire("output"),
        "attribute": attribute,
        "tensor": tensor,
        "declared type": declared,
        "op": operation,
        "call": call,
        "name": rename,
        "no outputs": lambda: node.ClearField("output"),
        "no inputs": lambda: node.ClearField("input"),
        "no attributes": lambda: node.ClearField("attribute"),
        "node lost": lambda: graph.node.remove(node) if graph.node else None,
        "node twice": lambda: graph.node.add().CopyFrom(node),
        "opset": lambda: setattr(model.opset_import[0], "version", number if abs(number) < 2**31 else 99),
        "domain": lambda: setattr(node, "domain", str(_pick(["own", "com.microsoft", "ai.edgec", "z"], rng))),
        "overload": lambda: setattr(node, "overload", "x"),
        "no weights": lambda: graph.ClearField("initializer") if weights else None,
        "outputs lost": lambda: graph.ClearField("output"),
    }
    what = str(_pick(sorted(actions), rng))
    with contextlib.suppress(UnicodeEncodeError):  # protobuf takes no half characters
        actions[what]()
    return what


def _model_case(number: int, rng: Rng, folder: Path) -> Case:
    model = onnx.ModelProto()
    model.CopyFrom(_pick(models(), rng))
    broken = [_break_model(model, rng) for _ in range(int(rng.integers(1, 4)))]
    data = bytearray(model.SerializeToString())
    if rng.integers(8) == 0:
        for _ in range(int(rng.integers(1, 8))):
            data[int(rng.integers(len(data)))] = int(rng.integers(256))
        broken.append("bytes")
    (folder / "m.onnx").write_bytes(bytes(data))
    command = ["inspect", "m.onnx"]
    if rng.integers(6) == 0:
        target = str(_pick(list(TARGETS), rng))
        command = ["compile", "m.onnx", "--target", target, "-o", "m.edgec"]
    return Case(number, " + ".join(broken), command)


def _break_json(fields: object, rng: Rng) -> None:
    """Break one value somewhere in a JSON object."""
    place = fields
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))  # type: ignore[arg-type, call-overload]
        if not keys:
            return
        key = _pick(keys, rng)
        inner = place[key]  # type: ignore[index]
        if isinstance(inner, dict | list) and inner and rng.integers(3):
            place = inner
            continue
        choices: list[object] = [
            None,
            0,
            -1,
            2**70,
            1.5,
            "../../etc/passwd",
            [],
            {},
            [[]],
            "\ud800",
            True,
            *WORDS,
        ]
        if rng.integers(4) == 0:
            del place[key]  # type: ignore[attr-defined]
        else:
            place[key] = choices[int(rng.integers(len(choices)))]  # type: ignore[index]
        return


BUNDLE_KINDS = ("json", "bytes", "cut", "link", "fifo", "lost", "added", "arrays")


def break_bundle(broken: Path, kind: str, sound: Path, rng: Rng) -> Path:
    """Break a copy of a sound bundle in one way; the path that was drawn."""
    files = sorted(path for path in broken.rglob("*") if path.is_file())
    path = _pick([one for one in files if one.stat().st_size], rng)
    if kind == "json":
        path = _pick([one for one in files if one.suffix == ".json"], rng)
        fields = json.loads(path.read_text())
        for _ in range(int(rng.integers(1, 3))):
            _break_json(fields, rng)
        path.write_text(json.dumps(fields))
    elif kind == "bytes":
        data = bytearray(path.read_bytes())
        for _ in range(int(rng.integers(1, 6))):
            data[int(rng.integers(len(data)))] ^= int(rng.integers(1, 256))
        path.write_bytes(bytes(data))
    elif kind == "cut":
        path.write_bytes(path.read_bytes()[: int(rng.integers(path.stat().st_size))])
    elif kind == "link":
        path.unlink()
        path.symlink_to(_pick(["/etc/passwd", "nowhere", str(sound / path.relative_to(broken))], rng))
    elif kind == "fifo":
        path.unlink()
        os.mkfifo(path)
    elif kind == "lost":
        path.unlink()
    elif kind == "added":
        (path.parent / "more").write_text("x")
    elif kind == "arrays":
        path = _pick([one for one in files if one.suffix == ".npz"], rng)
        _break_arrays(path, rng)
    return path


def _bundle_case(number: int, rng: Rng, folder: Path, bundle: Path) -> Case:
    broken = folder / "b.edgec"
    shutil.copytree(bundle, broken)
    kind = str(_pick([*BUNDLE_KINDS, "zip"], rng))
    path = break_bundle(broken, kind, bundle, rng)
    with contextlib.suppress(OSError, ValueError, AttributeError, TypeError):
        if rng.integers(4) and (broken / "manifest.json").is_file():
            reseal(broken)
    name = "b.edgec"
    if kind == "zip":
        name = "b.zip"
        _break_zip(broken, folder / name, rng)
    words = (["verify"], ["run"], ["inspect"], ["report", "-o", "r.html"], ["package", "--docker", "-o", "c"])
    command = _pick([*words, ["package", "--wheel", "-o", "w"]], rng)
    return Case(number, f"bundle {kind} {path.name}", [command[0], name, *command[1:]])


def reseal(bundle: Path) -> None:
    """What an attacker does who can compute a hash."""
    manifest = bundle / "manifest.json"
    fields = json.loads(manifest.read_text())
    fields["files"] = {
        path.relative_to(bundle).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(bundle.rglob("*"))
        if path.is_file() and path != manifest and path.name != SIGNATURE
    }
    fields.pop("sha256", None)
    text = json.dumps(fields, sort_keys=True, ensure_ascii=False)
    fields["sha256"] = hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()
    manifest.write_text(json.dumps(fields))


def _break_zip(bundle: Path, path: Path, rng: Rng) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(bundle.rglob("*")):
            name = f"b/{file.relative_to(bundle).as_posix()}"
            if file.is_file():
                archive.writestr(name if rng.integers(40) else f"../{name}", file.read_bytes())
    data = bytearray(path.read_bytes())
    for _ in range(int(rng.integers(0, 8))):
        data[int(rng.integers(len(data)))] = int(rng.integers(256))
    path.write_bytes(bytes(data[: len(data) - int(rng.integers(0, 400)) * int(rng.integers(2))]))


def _break_arrays(path: Path, rng: Rng) -> None:
    shape, kind = (
        _pick(["(1,)", "(2**40,)", "(-1,)", f"({2**40},)", "()", "(1, 3, 8)"], rng),
        _pick(["<f4", "|O", "<i8", "|S0", "x"], rng),
    )
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    if rng.integers(4) == 0:
        header = bytes(rng.integers(0, 256, 64, dtype=np.uint8))
    body = b"\x93NUMPY" + bytes([int(rng.integers(1, 5)), 0]) + len(header).to_bytes(4, "little") + header
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", body + bytes(int(rng.integers(0, 200))))


def _input_case(number: int, rng: Rng, folder: Path, bundle: Path) -> Case:
    path = folder / "i.npz"
    np.savez(path, x=rng.standard_normal((1, 3, 8)).astype(np.float32))
    if rng.integers(2):
        _break_arrays(path, rng)
    else:
        data = bytearray(path.read_bytes())
        for _ in range(int(rng.integers(1, 8))):
            data[int(rng.integers(len(data)))] = int(rng.integers(256))
        path.write_bytes(bytes(data))
    return Case(number, "input", ["run", str(bundle), "--input", "i.npz", "--output", "o.npz"])


def draw(number: int, folder: Path, bundles: list[Path]) -> Case:
    """The case of a number, its files in a folder."""
    rng = np.random.default_rng(number)
    kind = int(rng.integers(10))
    if kind < 5:
        return _model_case(number, rng, folder)
    bundle = _pick(bundles, rng)
    return (
        _input_case(number, rng, folder, bundle) if kind == 9 else _bundle_case(number, rng, folder, bundle)
    )


@dataclasses.dataclass
class Ended:
    """How a case ended.

    Attributes:
        status: of the command; None where it did not end in time.
        wrong: what is wrong with that whatever the case is; None where nothing is.
        said: its last line.
        seconds: how long it took.
    """

    status: int | None
    wrong: str | None
    said: str
    seconds: float


def run(case: Case, folder: Path) -> Ended:
    """Run a case in a child."""
    from edgec.cli import main

    said = folder.with_suffix(".txt")
    before = _outside(folder)
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        with said.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + BYTES, mapped + BYTES))
        sys.argv = ["edgec", *case.arguments]
        status = 99
        try:
            main.main()
        except SystemExit as stop:
            status = int(stop.code or 0)
        except BaseException:
            import traceback

            traceback.print_exc()
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)
    status = _waited(child, start + SECONDS)
    text = said.read_text(errors="replace") if said.exists() else ""
    wrong = None
    if status is None:
        wrong = f"not ended after {SECONDS} s"
    elif status not in (0, 1, 2):
        wrong = f"status {status}"
    elif "a bug of edgec" in text or "Traceback" in text or "allow_pickle" in text:
        wrong = "no sentence"
    elif _outside(folder) != before:
        wrong = "wrote outside"
    last = text.strip().splitlines()[-1:] or [""]
    return Ended(status, wrong, last[0][:300], round(time.monotonic() - start, 1))


def _waited(child: int, deadline: float) -> int | None:
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _outside(folder: Path) -> list[str]:
    """What lies beside a case's folder."""
    return sorted(path.name for path in folder.parent.iterdir() if path.suffix != ".txt")


def _pick(choices, rng: Rng):  # type: ignore[no-untyped-def]
    return choices[int(rng.integers(len(choices)))]


def main() -> int:
    """Run the cases; 1 where one does not pass."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--folder", type=Path, help="keep the files of the cases that fail here")
    options = parser.parse_args()
    import edgec.compiler
    import edgec.frontends.onnx  # children begin with all of it imported

    failures = 0
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        kept = options.folder or Path(scratch)
        onnx.save(models()[0], Path(scratch) / "sound.onnx")
        bundles = []
        for target in TARGETS:
            bundle = Path(scratch) / f"{target.replace(':', '-')}.edgec"
            bundles.append(
                edgec.compile(str(Path(scratch) / "sound.onnx"), target=target, output=bundle).path
            )
        for number in range(options.first, options.first + options.cases):
            place = kept / str(number) / "case"
            shutil.rmtree(place.parent, ignore_errors=True)
            place.mkdir(parents=True)
            case = draw(number, place, bundles)
            ended = run(case, place)
            if ended.wrong is None:
                shutil.rmtree(place.parent, ignore_errors=True)
            else:
                failures += 1
                print(json.dumps({**dataclasses.asdict(case), **dataclasses.asdict(ended)}), flush=True)
    print(
        f"{options.cases} cases from {options.first}: {failures} failed",
        file=io.TextIOWrapper(sys.stderr.buffer),
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
