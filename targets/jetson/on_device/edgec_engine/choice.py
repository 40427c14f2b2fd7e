"""Which of a plan's variants this device is to run: built, verified and timed here, within a time.

The plan's own engine is built first and is always there. Then the others are tried one by one: each is
built, held to the samples, and timed beside the best so far in alternating blocks. A variant takes its place
where it passes and is faster in nearly every block; where the two cannot be told apart, the one before stays.
All that was tried is written down after each (`choice.json`), so that a build that was cut goes on behind the
last.
"""

from __future__ import annotations

import json
import statistics
import time
from typing import Any, Sequence

from edgec_engine import engine_file, verification
from edgec_engine.bench import gpu_block
from edgec_engine.builder import Say, alone, build, this_machine
from edgec_engine.errors import DeviceError
from edgec_engine.plan import Plan, sha256, write_atomically
from edgec_engine.runner import Runner

SCHEMA = 1
RECORD = "choice.json"
TRIAL = "trial.engine"

BLOCKS = 9
BLOCK_SECONDS = 0.15

WINS = 8
"""Blocks of `BLOCKS` that a variant must win: by chance it does in 2 of 100 cases."""

CLEAR = 0.99
"""And this part of the other's time at most: what is less is not worth another rounding."""


def choose(
    plan: Plan, say: Say, seconds: float, again: bool = False, block_seconds: float = BLOCK_SECONDS
) -> dict[str, Any]:
    """Build the bundle's engine, or keep the one that is there and still holds.

    Args:
        plan: the plan.
        say: told each step.
        seconds: what all builds, checks and timings together may take; the first is built whatever it takes.
            With 0 it is the plan's own alone.
        again: begin anew even where a good engine is there.
        block_seconds: length of a block of runs.

    Returns:
        the sidecar of the engine, with `kept`, whether it was there before, and `choice`: `read`'s.

    Raises:
        DeviceError: the plan's own engine cannot be built, and neither can another.
    """
    with alone(plan):
        _remove(Plan(plan.bundle, plan.state, plan.fields, TRIAL))  # of a build that was cut
        record = None if again else _resumed(plan, this_machine(plan))
        kept = record is not None
        if record is None:
            record = _begun(plan, say)
        if seconds > 0 and record["left"]:
            kept = not _went_on(plan, record, say, seconds, block_seconds) and kept
        return dict(engine_file.read_sidecar(plan), kept=kept, choice=record)


def read(plan: Plan) -> dict[str, Any] | None:
    """What was chosen: `tried` (`name`, `what`, `seconds`, `passed`, `off`, `milliseconds` beside the best
    until then and `ratio` to it, `won`, `why`), `chosen`, `finished`, `left` (names that time did not allow).

    None where nothing was recorded for this plan.
    """
    try:
        record = json.loads((plan.state / RECORD).read_text(encoding="utf-8"))
        if record["schema"] == SCHEMA and record["plan_sha256"] == _plan_sha256(plan):
            return record
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def ordered(left: Sequence[dict[str, Any]], best: dict[str, Any]) -> list[dict[str, Any]]:
    """The variants still to try, promising ones first: other types, edits in the best types, then all."""
    return sorted(
        left, key=lambda one: (one["edit"] not in ("", best["edit"]), one["precision"] != best["precision"])
    )


def is_faster(trial: Sequence[float], best: Sequence[float]) -> bool:
    """Whether a trial's blocks, each measured right after the best's, tell that it is faster."""
    wins = sum(one < other for one, other in zip(trial, best))
    return wins >= WINS / BLOCKS * len(trial) and statistics.median(trial) <= CLEAR * statistics.median(best)


def _resumed(plan: Plan, device: dict[str, Any]) -> dict[str, Any] | None:
    """The record of the engine that is there; None where none is or it does not hold."""
    try:
        sidecar = engine_file.check(plan, device)
    except DeviceError:
        return None
    own = plan.variants[0]["name"] if plan.variants else ""
    built = sidecar.get("variant", own)
    record = read(plan)
    if record is not None and record["chosen"] == built:
        return record
    # Built with no time for others, or by edgec-engine.
    return _record(plan, sidecar) if built == own else None


def _record(plan: Plan, sidecar: dict[str, Any]) -> dict[str, Any]:
    name = plan.variants[0]["name"] if plan.variants else ""
    first = {
        "name": name,
        "what": plan.variants[0]["what"] if plan.variants else "",
        "seconds": sidecar.get("seconds", 0.0),
        "won": True,
        "why": "the plan's own",
    }
    return {
        "schema": SCHEMA,
        "plan_sha256": _plan_sha256(plan),
        "tried": [first],
        "chosen": name,
        "finished": len(plan.variants) <= 1,
        "left": [variant["name"] for variant in plan.variants[1:]],
    }


def _begun(plan: Plan, say: Say) -> dict[str, Any]:
    """Build the plan's own engine."""
    own = plan.of(plan.variants[0], plan.engine.name) if plan.variants else plan
    if (plan.state / RECORD).exists():
        (plan.state / RECORD).unlink()
    record = _record(plan, build(own, say))
    _keep(plan, record)
    return record


def _went_on(plan: Plan, record: dict[str, Any], say: Say, seconds: float, block_seconds: float) -> bool:
    """Try what is left, as long as the time allows; whether anything was tried."""
    before = len(record["tried"])
    first = record["tried"][0]
    if "passed" not in first:
        first.update(_judged(plan))
    while True:
        best = next(one for one in plan.variants if one["name"] == record["chosen"])
        left = ordered(_left(plan, record), best)
        if not left:
            record["finished"] = True
            break
        spent = sum(one["seconds"] for one in record["tried"])
        # The next one takes about as long as the last; the timing cache makes it shorter rather than longer.
        if spent + record["tried"][-1]["seconds"] > seconds:
            say(f"{spent:.0f} s are spent of {seconds:.0f}: {len(left)} variants are left untried")
            break
        record["tried"].append(_tried(plan, left[0], record, say, block_seconds))
        record["left"] = [one["name"] for one in _left(plan, record)]
        _keep(plan, record)
    _keep(plan, record)
    return len(record["tried"]) > before


def _left(plan: Plan, record: dict[str, Any]) -> list[dict[str, Any]]:
    tried = {one["name"] for one in record["tried"]}
    return [variant for variant in plan.variants if variant["name"] not in tried]


def _tried(
    plan: Plan, variant: dict[str, Any], record: dict[str, Any], say: Say, block_seconds: float
) -> dict[str, Any]:
    """Build, judge and time one variant; it becomes the plan's engine where it wins."""
    started = time.monotonic()
    found: dict[str, Any] = {"name": variant["name"], "what": variant["what"], "won": False}
    trial = plan.of(variant, TRIAL)
    say("trying {}: {}".format(variant["name"], variant["what"]))
    try:
        sidecar = build(trial, say)
        found.update(_judged(trial))
        if found["passed"]:
            _against_best(plan, trial, found, record["tried"], block_seconds)
        if found["won"]:
            engine_file.adopt(trial, plan, sidecar)
            for other in record["tried"]:
                if other["won"]:
                    other["won"] = False
                    # One that was beyond the gate says so.
                    other["why"] = "{} is faster".format(variant["name"]) if other["passed"] else other["why"]
            record["chosen"] = variant["name"]
    except DeviceError as error:
        found.update(passed=False, why=error.what)
    finally:
        _remove(trial)
    found["seconds"] = round(time.monotonic() - started, 3)
    say("{}: {}".format(variant["name"], "the fastest so far" if found["won"] else found["why"]))
    return found


def _judged(plan: Plan) -> dict[str, Any]:
    """Whether an engine keeps the gate on the samples."""
    try:
        with Runner(plan) as runner:
            result = verification.verify(plan, runner)
    except DeviceError as error:
        return {"passed": False, "why": error.what}
    if result["passed"]:
        return {"passed": True, "off": result["scaled"]}
    return {
        "passed": False,
        "off": result["scaled"],
        "why": "output {!r} is {}".format(result["output"], result["broken"]),
    }


def _against_best(
    plan: Plan, trial: Plan, found: dict[str, Any], tried: list[dict[str, Any]], block_seconds: float
) -> None:
    """Time a variant that passed beside the best so far, whose place it takes at once where that failed."""
    best = next(one for one in tried if one["won"])
    with Runner(plan) as old, Runner(trial) as new:
        feeds = plan.samples(1)[0][0]
        blocks: dict[str, list[float]] = {"old": [], "new": []}
        for runner in (old, new):
            runner.run(feeds)
        for _ in range(BLOCKS):
            blocks["old"].append(statistics.median(gpu_block(old, feeds, block_seconds)))
            blocks["new"].append(statistics.median(gpu_block(new, feeds, block_seconds)))
    then, now = (statistics.median(blocks[key]) for key in ("old", "new"))
    found.update(milliseconds=now, beside=then, ratio=now / then)
    best["milliseconds"] = then
    if not best["passed"] or is_faster(blocks["new"], blocks["old"]):
        found.update(won=True, why="")
    else:
        nearly = CLEAR < now / then < 1 / CLEAR
        word = "cannot be told from" if nearly or now < then else "slower than"
        found["why"] = "{} {}: {:.4f} against {:.4f} ms".format(word, best["name"], now, then)


def _remove(trial: Plan) -> None:
    for path in (trial.engine, engine_file.sidecar_path(trial)):
        if path.exists():
            path.unlink()


def _keep(plan: Plan, record: dict[str, Any]) -> None:
    if not plan.variants:
        return
    text = json.dumps(record, indent=1, sort_keys=True) + "\n"
    write_atomically(plan.state / RECORD, text.encode())


def _plan_sha256(plan: Plan) -> str:
    return sha256(plan.bundle / "engine" / "plan.json")
