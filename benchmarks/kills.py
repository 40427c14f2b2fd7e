"""Commands killed at random moments: what is left, and whether the next one finds its way.

    python benchmarks/kills.py                    # 200 kills
    python benchmarks/kills.py --kills 20 --first 100

Compile for x86, Core ML and Jetson, packaging, and deploying to a device behind a real SSH server whose
TensorRT is simulated. A kill is drawn from its number: the command, the signal (KILL, TERM, INT) and the
moment within the time that the whole command took. Every second one has an older result in its place. After
each kill the result must be whole, or absent where nothing was there before; after the next start of any
command nothing may be left in the temporary folder; in the end each command runs whole, and only its result
may be there. What is otherwise is printed as a line of JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import shutil
import signal
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
from fuzz import models
from tables import markdown, publish

JETSON_TESTS = Path(__file__).parents[1] / "tests" / "targets" / "jetson"

SECONDS = 120
"""How long a command may go on after its signal, and how long a whole one may take."""

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


class Job:
    """A command and its result.

    Args:
        name: as the table has it.
        arguments: the command line; `{out}` is the result's path.
        out: where the result goes.
        whole: raises where the result is there and not whole.
        replaces: whether an older result stays until the new one is whole.
    """

    def __init__(
        self,
        name: str,
        arguments: list[str],
        out: Path,
        whole: Callable[[Path], None],
        *,
        replaces: bool = True,
    ) -> None:
        self.name, self.out, self.whole, self.replaces = name, out, whole, replaces
        self.arguments = [word.replace("{out}", str(out)) for word in arguments]
        self.seconds = 0.0


def start(arguments: list[str], log: Path) -> int:
    """The process number of a command, run by a copy of this process that leads a group of its own."""
    child = os.fork()
    if child:
        return child
    status = 99
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        from edgec.cli import main

        sys.argv = ["edgec", *arguments]
        main.main()
    except SystemExit as stop:
        status = int(stop.code or 0)
    except BaseException as error:
        print(repr(error), file=sys.stderr)
    finally:
        with contextlib.suppress(Exception):
            sys.stderr.flush()
        os._exit(status)


def ended(child: int, seconds: float) -> int | None:
    """Its exit status, less than 0 for a signal; None where it did not end in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        number, status = os.waitpid(child, os.WNOHANG)
        if number:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return None


def run_whole(job: Job, log: Path) -> str:
    """Run a command to its end; what went wrong, empty where nothing did."""
    began = time.monotonic()
    child = start(job.arguments, log)
    status = ended(child, SECONDS)
    job.seconds = time.monotonic() - began
    if status is None:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return "" if status == 0 else f"whole run: status {status}: {log.read_text(errors='replace')[-300:]}"


def kill(number: int, job: Job, temporary: Path, log: Path) -> tuple[str, list[str]]:
    """One kill: the signal's name, with ` late` where the command had ended before, and what is wrong."""
    rng = np.random.default_rng(number)
    sent = SIGNALS[int(rng.integers(len(SIGNALS)))]
    if job.replaces and number % 2:
        shutil.rmtree(job.out, ignore_errors=True)
    older = job.out.exists()
    moment = float(rng.uniform(0, job.seconds))
    child = start(job.arguments, log)
    status = ended(child, moment)
    late = status is not None
    if not late:
        # A terminal's interrupt goes to a group, what an administrator or the system kills is one process.
        (os.killpg if sent == signal.SIGINT else os.kill)(child, sent)
        status = ended(child, SECONDS)
    wrong = []
    if status is None:
        wrong.append(f"did not end within {SECONDS} s")
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
    elif not late and status not in (0, -sent, 128 + sent):
        wrong.append(f"status {status}: {log.read_text(errors='replace')[-300:]}")
    with contextlib.suppress(ProcessLookupError):  # its children, which would go on for a while
        os.killpg(child, signal.SIGKILL)
    if older and not job.out.exists():
        wrong.append("the older result is lost")
    elif job.out.exists():
        try:
            job.whole(job.out)
        except Exception as error:
            wrong.append(f"not whole: {error}")
    ended(start(["passes"], log.with_suffix(".next")), SECONDS)
    left = sorted(path.name for path in temporary.iterdir())
    if left:
        wrong.append(f"left in the temporary folder: {left}")
        for path in temporary.iterdir():
            shutil.rmtree(path, ignore_errors=True)
    return sent.name + (" late" if late else ""), wrong


def opens(bundle: Path) -> None:
    """Raise where a bundle is not whole."""
    from edgec.core.bundle import Bundle

    Bundle.open(bundle)


def same_files_as(context: list[str]) -> Callable[[Path], None]:
    """Whether a folder has the files of one that was made without a kill."""

    def whole(folder: Path) -> None:
        found = _files(folder)
        if found != context:
            raise ValueError(f"{len(found)} files of {len(context)}")

    return whole


def zips(folder: Path) -> None:
    """Raise where a wheel is not whole."""
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            if archive.testzip() is not None:
                raise ValueError(f"{wheel.name} is damaged")


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@contextlib.contextmanager
def device(root: Path) -> Iterator[str]:
    """The address of a device; its server is a process of its own, and this user's home is in `root`."""
    ready = root / "address"
    home = root / "user"
    (home / ".ssh").mkdir(parents=True)
    child = os.fork()
    if child == 0:
        try:
            _serve(root, home, ready)
        finally:
            os._exit(1)
    os.environ["HOME"] = str(home)
    os.environ.pop("SSH_AUTH_SOCK", None)
    try:
        while not ready.exists():
            time.sleep(0.05)
        yield ready.read_text()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _serve(root: Path, home: Path, ready: Path) -> None:
    import asyncssh
    from ssh_devices import ssh_device

    key = asyncssh.generate_private_key("ssh-ed25519")
    key.write_private_key(str(home / ".ssh" / "id_ed25519"))
    (root / "device").mkdir()
    with ssh_device(root / "device", key) as served:
        (home / ".ssh" / "known_hosts").write_text(served.known_hosts_line())
        ready.with_suffix(".part").write_text(served.address)
        ready.with_suffix(".part").rename(ready)
        while True:
            time.sleep(60)


def jobs(root: Path, address: str, log: Path) -> list[Job]:
    """The commands, each with a result in a folder of its own, and the time that it takes whole."""
    from device_bundles import write_bundle

    onnx.save(models()[0], root / "m.onnx")
    made = []
    for name in ("x86:ort", "coreml", "jetson"):
        folder = root / name.replace(":", "-")
        folder.mkdir()
        words = ["compile", str(root / "m.onnx"), "--target", name, "-o", "{out}"]
        made.append(Job(f"compile {name}", words, folder / "m.edgec", opens))
    for job in made:
        _must(run_whole(job, log))
    bundles = {job.name: root / f"{index}.edgec" for index, job in enumerate(made)}
    for job in made:
        shutil.copytree(job.out, bundles[job.name])
    for name, words in (("package --docker", ["--docker"]), ("package --wheel", ["--wheel"])):
        (root / words[0]).mkdir()
        job = Job(
            name,
            ["package", str(bundles["compile x86:ort"]), *words, "-o", "{out}"],
            root / words[0] / "o",
            zips,
        )
        _must(run_whole(job, log))
        if name == "package --docker":
            job.whole = same_files_as(_files(job.out))
        made.append(job)
    (root / "deployed").mkdir()
    bundle = write_bundle(root / "deployed" / "small.jetson.edgec")
    job = Job("deploy", ["deploy", str(bundle), address], bundle, opens, replaces=False)
    _must(run_whole(job, log))
    return [*made, job]


def _must(wrong: str) -> None:
    if wrong:
        raise SystemExit(wrong)


def main() -> int:
    """Kill, and print the table; 1 where something is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=math.inf, help="end after so long, with fewer")
    options = parser.parse_args()
    sys.path.insert(0, str(JETSON_TESTS))
    failures = 0
    counts: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory(prefix="kills-") as scratch:
        root = Path(scratch).resolve()
        log = root / "said.txt"
        with device(root) as address:
            # Children begin with all of it imported.
            import edgec.cli.compile_command
            import edgec.compiler
            import edgec.frontends.onnx  # noqa: F401

            temporary = root / "temporary"
            temporary.mkdir()
            tempfile.tempdir = os.environ["TMPDIR"] = str(temporary)
            made = jobs(root, address, log)
            for path in temporary.iterdir():  # of the simulated device
                shutil.rmtree(path, ignore_errors=True)
            end, killed = time.monotonic() + options.seconds, 0
            for number in range(options.first, options.first + options.kills):
                if time.monotonic() > end:
                    break
                killed += 1
                job = made[number // 2 % len(made)]
                how, wrong = kill(number, job, temporary, log)
                count = counts.setdefault(job.name, Counter())
                count[how] += 1
                count["wrong"] += bool(wrong)
                failures += bool(wrong)
                if wrong:
                    print(
                        json.dumps({"kill": number, "job": job.name, "how": how, "wrong": wrong}), flush=True
                    )
            for job in made:
                wrong_at_end = run_whole(job, log)
                beside = sorted(path.name for path in job.out.parent.iterdir() if path != job.out)
                staged = sorted(path.name for path in (root / "device").rglob("*.staging"))
                if wrong_at_end or beside or staged:
                    failures += 1
                    counts[job.name]["wrong"] += 1
                    print(json.dumps({"job": job.name, "wrong": wrong_at_end, "beside": beside + staged}))
    rows = [
        [
            name,
            *(count[each.name] for each in SIGNALS),
            sum(n for how, n in count.items() if "late" in how),
            count["wrong"],
        ]
        for name, count in counts.items()
    ]
    headers = ("command", "KILL", "TERM", "INT", "ended before its signal", "wrong")
    title = "Commands killed at random moments"
    publish("kills", title, markdown(headers, rows) + f"\n\n{killed} kills: {failures} wrong.")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
