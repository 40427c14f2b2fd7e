"""Text from outside, made harmless in every language that edgec writes.

The names of a model's file, inputs and layers, and all that a bundle says, are other people's text. Each
language has one function here, and every template and every writer puts such text through it. HTML has its
own in the report's environment, which escapes everything.
"""

from __future__ import annotations

import re
import shlex
import unicodedata

from edgec.core.errors import RequestError

_PACKAGE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", re.ASCII)
_VERSION = re.compile(r"[0-9]+(\.[0-9]+)*[A-Za-z0-9._!+-]*", re.ASCII)

# Besides the control characters: what ends a line somewhere, what is half a character, and what turns the
# order of the text that follows (Boucher and Anderson, "Trojan Source", 2021).
_KINDS = ("Cc", "Cf", "Cs", "Zl", "Zp")


def one_line(text: str) -> str:
    """The text on one line: for a comment of a Dockerfile or a shell script, or for a header of a wheel.

    What is invisible or breaks a line becomes a blank; blanks are drawn together.
    """
    seen = "".join(" " if unicodedata.category(letter) in _KINDS else letter for letter in text)
    return " ".join(seen.split())


def printable(text: str) -> str:
    """The text for a terminal: what would move the cursor, colour or hide the rest becomes an escape."""
    return "".join(
        letter.encode("unicode_escape").decode() if unicodedata.category(letter) in _KINDS else letter
        for letter in text
    )


def python_string(text: str) -> str:
    """A Python string literal, in ASCII."""
    return ascii(text)


def shell_word(text: str) -> str:
    """One word of a POSIX shell.

    Raises:
        RequestError: it has a NUL, which no word can have.
    """
    if "\0" in text:
        raise RequestError(f"{text!r} has a NUL, which no path or argument can have", fix="rename it")
    return shlex.quote(text)


def requirement(package: str, version: str | None) -> str:
    """A line of a requirements file, or a `Requires-Dist` of a wheel.

    Args:
        package: a distribution's name.
        version: the version it is pinned to; None for any.

    Raises:
        RequestError: one of them is no name or no version.
    """
    if not _PACKAGE.fullmatch(package):
        raise RequestError(f"{package!r} is not a package's name", fix="compile the model again")
    if version is None:
        return package
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        raise RequestError(f"{version!r} is not a version of {package}", fix="compile the model again")
    return f"{package}=={version}"


def swift_string(text: str) -> str:
    """A Swift string literal."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    escaped = escaped.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t").replace("\0", "\\0")
    # Others would end a literal or be invisible in it; half a character has no escape in Swift.
    return '"' + "".join(map(_swift_letter, escaped)) + '"'


def _swift_letter(letter: str) -> str:
    kind = unicodedata.category(letter)
    if kind == "Cs":
        return "\\u{fffd}"
    return f"\\u{{{ord(letter):x}}}" if kind in _KINDS else letter


def swift_comment(text: str) -> str:
    """Text for one line of a Swift comment, of either kind."""
    return one_line(text).replace("*/", "* /").replace("/*", "/ *")


def markdown_cell(text: str) -> str:
    """Text for one cell of a Markdown table, between backticks or not."""
    quoted = one_line(text).replace("\\", "\\\\").replace("|", "\\|").replace("`", "'")
    return quoted.replace("<", "&lt;").replace("[", "\\[")
