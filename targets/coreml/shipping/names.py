"""Names and numbers of a model in Swift's own terms."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

KEYWORDS = frozenset((Path(__file__).parent / "keywords.txt").read_text(encoding="utf-8").split())
"""Reserved words of the Swift reference ("Lexical Structure"), also those reserved in some places only."""

_TAKEN = frozenset(
    {"features", "numbers", "top", "description", "model", "labels", "load", "predict", "init", "self"}
)
"""Names that the generated types use themselves."""


def identifier(name: str) -> str:
    """A Swift identifier in lower camel case; not unique, not escaped.

    Letters beyond ASCII become underscores, so that the file reads the same in every editor.
    """
    words = [word for word in re.split(r"[^0-9A-Za-z]+", name) if word]
    if not words:
        return "value"
    first = words[0] if words[0].isupper() and len(words) == 1 else words[0][0].lower() + words[0][1:]
    text = first + "".join(word[0].upper() + word[1:] for word in words[1:])
    return f"_{text}" if text[0].isdigit() else text


def identifiers(names: Iterable[str]) -> list[str]:
    """An identifier for each name, no two alike; keywords in backticks."""
    found: list[str] = []
    used: set[str] = set()
    for name in names:
        stem = identifier(name)
        stem = f"{stem}Value" if stem in _TAKEN else stem
        text, number = stem, 1
        while text in used:
            number += 1
            text = f"{stem}{number}"
        used.add(text)
        found.append(f"`{text}`" if text in KEYWORDS else text)
    return found


def bare(text: str) -> str:
    """An identifier without its backticks, to build other names from."""
    return text.strip("`")


def module_name(name: str) -> str:
    """A name for the Swift module and its types: upper camel case, and no word that Swift or Core ML has."""
    text = identifier(name)
    text = text.lstrip("_")
    text = text[0].upper() + text[1:] if text and not text[0].isdigit() else f"Model{text}"
    taken = {
        "CoreML",
        "CoreGraphics",
        "CoreVideo",
        "Foundation",
        "EdgecMeasure",
        "Any",
        "Self",
        "Type",
        "Protocol",
    }
    return f"{text}Model" if text in taken or text.startswith(("ML", "NS", "CG", "CV")) else text


def literal(number: float) -> str:
    """A Swift floating-point literal that reads back as the same number."""
    return repr(float(number))
