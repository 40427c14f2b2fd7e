"""What every benchmark prints: the machine, the command, one table in Markdown; kept under results/."""

from __future__ import annotations

import platform
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from edgec.devices.host import host_profile
from edgec.report.assemble import tool_versions

RESULTS = Path(__file__).parent / "results"


def markdown(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(headers) + " |", "|" + " --- |" * len(headers)]
    lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows]
    return "\n".join(lines)


def publish(name: str, title: str, body: str) -> None:
    """Print a result and keep it as `results/NAME.md` with the command, the machine and the versions."""
    host = host_profile()
    tools = ", ".join(f"{tool} {version}" for tool, version in tool_versions().items())
    command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    text = (
        f"# {title}\n\n"
        f"Command: `{command}`\n\n"
        f"Machine: {host.name}; Python {platform.python_version()}; {tools}\n\n{body}\n"
    )
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")


def _cell(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.1e}" if 0 < abs(value) < 1e-2 else f"{value:.3f}"
    return str(value).replace("|", "\\|")
