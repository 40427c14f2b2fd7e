"""What continuous integration asks of bundles: limits on latency and drop, and a JUnit file of the answers.

Every bundle is a suite, every gate and every limit a case.
"""

from __future__ import annotations

import dataclasses
import xml.etree.ElementTree as ET
from collections.abc import Sequence

from edgec import amounts
from edgec.core.errors import RequestError
from edgec.report import formats
from edgec.report.comparison import Row


@dataclasses.dataclass(frozen=True)
class Limits:
    """The largest values that pass.

    Attributes:
        latency: median latency in milliseconds; None for any.
        drop: drop of the score, as a fraction; None for any.
    """

    latency: float | None = None
    drop: float | None = None

    @classmethod
    def of(cls, texts: Sequence[str]) -> Limits:
        """From `5ms` and `1%`.

        Raises:
            RequestError: one is neither, or there are two of a kind.
        """
        times = [text for text in texts if text.strip().endswith("s")]
        shares = [text for text in texts if text.strip().endswith("%")]
        if len(times) + len(shares) != len(texts) or len(times) > 1 or len(shares) > 1:
            raise RequestError(
                f"--fail-above {' '.join(texts)} is not one latency and one drop at most",
                fix="write --fail-above 5ms for the latency, --fail-above 1% for the drop of the score",
            )
        return cls(
            amounts.milliseconds(times[0] if times else None, "--fail-above"),
            amounts.share(shares[0] if shares else None, "--fail-above"),
        )


@dataclasses.dataclass(frozen=True)
class Case:
    """One question to one bundle.

    Attributes:
        bundle: its folder's name.
        name: what is asked.
        failure: why the answer is no; empty where it is yes.
    """

    bundle: str
    name: str
    failure: str


def cases(rows: Sequence[Row], limits: Limits) -> list[Case]:
    """All questions, bundle by bundle. What was not measured does not pass a limit."""
    found = []
    for row in rows:
        found.append(Case(row.name, "numerics", "" if row.passed else "a gate was not kept"))
        if limits.latency is not None:
            found.append(Case(row.name, f"latency up to {limits.latency:g} ms", _slow(row, limits.latency)))
        if limits.drop is not None:
            found.append(Case(row.name, f"drop up to {limits.drop:.4g}", _lossy(row, limits.drop)))
    return found


def _slow(row: Row, limit: float) -> str:
    if row.p50 is None:
        return "its latency was not measured"
    if row.p50 <= limit:
        return ""
    return f"a median of {formats.milliseconds(row.p50)} ms on {row.device}"


def _lossy(row: Row, limit: float) -> str:
    if row.drop is None:
        return "its score is not known: it was compiled without evaluation data"
    return "" if row.drop <= limit else f"a drop of {formats.drop(row.drop, row.metric)}"


def junit(found: Sequence[Case]) -> bytes:
    """The cases in JUnit's XML, which every CI system reads."""
    top = ET.Element("testsuites", name="edgec report")
    for bundle in dict.fromkeys(case.bundle for case in found):
        own = [case for case in found if case.bundle == bundle]
        failed = sum(bool(case.failure) for case in own)
        suite = ET.SubElement(top, "testsuite", name=bundle, tests=str(len(own)), failures=str(failed))
        for case in own:
            entry = ET.SubElement(suite, "testcase", classname=bundle, name=case.name)
            if case.failure:
                ET.SubElement(entry, "failure", message=case.failure)
    ET.indent(top)
    return ET.tostring(top, encoding="utf-8", xml_declaration=True) + b"\n"
