"""What the report says first: one verdict each on latency, numerics and accuracy."""

from __future__ import annotations

import dataclasses
from typing import Literal

from edgec.core.timing import SAME
from edgec.report import formats
from edgec.report.schema import LatencyEntry, Report

Mood = Literal["good", "bad", "plain"]

LONG_INPUTS = 0.99
"""Agreement on inputs without padding below which the reader is told before the figures."""

BUSY = 0.25
"""Blocks that spread by more of their median than this were disturbed by something else."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One card of the summary.

    Attributes:
        title: what it is about.
        figure: the figure, large.
        unit: its unit, small beside it.
        text: the sentence under it.
        mood: its colour.
    """

    title: str
    figure: str
    unit: str
    text: str
    mood: Mood


def chosen(report: Report) -> LatencyEntry | None:
    """The engine that ships."""
    return next((entry for entry in report["latency"]["entries"] if entry["role"] == "chosen"), None)


def best_baseline(report: Report) -> LatencyEntry | None:
    """The fastest measured peer."""
    measured = [
        entry
        for entry in report["latency"]["entries"]
        if entry["role"] == "baseline" and entry["p50"] is not None
    ]
    return min(measured, key=lambda entry: entry["p50"] or 0.0, default=None)


def warnings(report: Report) -> list[str]:
    """What must be read before the figures: what the runtime is known to get wrong, the model's notes,
    fallbacks, a busy machine.
    """
    found = [finding["text"] for finding in report["known_wrong"]]
    found += report["model"]["notes"]
    if report["fallbacks"]:
        number = formats.plural(len(report["fallbacks"]), "fallback")
        found.append(f"{number}: part of the model does not run the way it was meant to, see Origin.")
    tokens = report["tokens"]
    for section, taken in ((report["slim"], "Units"), (tokens, "Tokens")):
        if section and not section.get("gated", True):
            loss = "its loss is under Accuracy" if report["accuracy"] else "its loss is not known"
            found.append(
                f"{taken} are taken away and no budget was set: nothing gated what that costs; {loss}."
            )
    beside = next((each.get("baseline") for each in (tokens, report["slim"]) if each), None)
    if beside and beside["ratio"] > 1.0:
        what = "tokens" if tokens else "units"
        found.append(
            f"Taking {what} away makes this engine slower: it takes {beside['ratio']:.2f} times as long as "
            f"the same engine with all {what}."
        )
    padding = tokens.get("padding") if tokens else None
    if padding and padding["cosine"] < LONG_INPUTS:
        found.append(
            f"The data's inputs fill at most {padding['longest']} of {padding['of']} tokens. On inputs that "
            f"fill every token the reduced network agrees less with the source: a mean cosine of "
            f"{formats.cosine(padding['cosine'])}."
        )
    entry = chosen(report)
    if entry is not None and (entry["spread"] or 0.0) > BUSY:
        found.append(
            f"The machine was busy: the chosen engine's blocks spread by {formats.share(entry['spread'])} of "
            "their median. Measure again on an idle machine before quoting a latency."
        )
    return found


def verdicts(report: Report) -> list[Verdict]:
    """The cards, in the order they are read."""
    return [
        _latency(report),
        _against_peer(report),
        _numerics(report),
        _accuracy(report),
    ]


def _latency(report: Report) -> Verdict:
    entry, device = chosen(report), report["latency"]["device"]
    if entry is None or entry["p50"] is None:
        return Verdict("Latency", formats.NONE, "", "Nothing was measured.", "plain")
    figure = formats.milliseconds(entry["p50"])
    if not report["latency"]["measured"]:
        return Verdict("Latency, predicted", figure, "ms", "A prediction: nothing was measured.", "plain")
    within = ""
    if entry["interval"]:
        within = f", within {formats.between(entry['interval'])} ms by {len(entry['blocks'])} blocks"
    text = (
        f"Median of one run{within}; 90 % of the runs within {formats.milliseconds(entry['p90'])} ms. "
        f"Measured on {device}."
    )
    return Verdict("Latency", figure, "ms", text, "plain")


def _against_peer(report: Report) -> Verdict:
    title, entry, peer = "Against the best peer", chosen(report), best_baseline(report)
    ratio = None if entry is None else entry["ratio_to_best_baseline"]
    if entry is None or peer is None or not ratio or not report["latency"]["measured"]:
        return Verdict(title, formats.NONE, "", "No peer was measured beside it.", "plain")
    beside = f"the best peer, {peer['name']}, takes {formats.milliseconds(peer['p50'])} ms"
    if peer["precision"] != entry["precision"]:
        beside += f" in {peer['precision']}; this engine runs {entry['precision']}"
    interval = entry["ratio_interval"]
    speeds = (
        f" The blocks say {formats.between([1 / end for end in reversed(interval)])} ×." if interval else ""
    )
    if entry["verdict"] not in ("faster", "slower"):
        text = f"{SAME[:1].upper()}{SAME[1:]}: {beside}.{speeds}"
        return Verdict(title, "level", "", text, "plain")
    figure, good = formats.ratio(1 / ratio), entry["verdict"] == "faster"
    text = f"{'Faster' if good else 'Slower'}: {beside}.{speeds}"
    return Verdict(title, figure, "× its speed", text, "good" if good else "bad")


def _numerics(report: Report) -> Verdict:
    gates, kind = report["numerics"]["gates"], report["numerics"]["kind"]
    title = "Numerics" if kind == "measured" else f"Numerics, {kind}"
    if not gates:
        return Verdict("Numerics", formats.NONE, "", "Nothing was compared with the source.", "plain")
    shipped, failed = gates[-1], [gate for gate in gates if not gate["passed"]]
    if failed:
        names = ", ".join(gate["stage"] for gate in failed)
        return Verdict(title, "failed", "", f"Beyond the gate: {names}.", "bad")
    off, allowed = formats.small(shipped["scaled"]), formats.small(shipped["gate"]["scaled"])
    text = (
        f"{formats.plural(len(gates), 'gate')} kept. What ships is off by {off} of the output's spread; "
        f"{allowed} is allowed."
    )
    if kind != "measured":
        text += f" The engine did not run: {report['numerics']['ran']}."
    for measurement in report.get("measurements", []):
        if verified := measurement.get("verified"):
            off = formats.small(verified["scaled"])
            text += f" Measured on {measurement['device']['name']}: off by {off} of it."
    return Verdict(title, "passed", "", text, "good")


def _accuracy(report: Report) -> Verdict:
    scores = report["accuracy"]
    if scores is None:
        return Verdict("Accuracy", formats.NONE, "", "No evaluation data was given.", "plain")
    metric, drop = scores["metric"], scores["drop"]
    kept = abs(drop) < 5e-5
    change = f"a {'drop' if drop > 0 else 'gain'} of {formats.drop(abs(drop), metric)}"
    text = (
        f"{metric[:1].upper()}{metric[1:]} of the engine, beside {formats.score(scores['source'], metric)} "
        f"of the source: {'no drop' if kept else change} on {formats.plural(scores['samples'], 'sample')}."
    )
    if scores.get("unsteady"):
        text += (
            f" On {scores['unsteady']} of them the source's own fp32 is off from its float64: there only "
            "what the engine loses beyond that counts."
        )
    figure, _, unit = formats.score(scores["engine"], metric).partition(" ")
    title = "Accuracy"
    if scores["kind"] != "measured":
        title += f", {scores['kind']}"
        text += f" The engine did not run: {report['numerics']['ran']}."
    return Verdict(title, figure, unit, text, "good" if kept or drop < 0 else "plain")
