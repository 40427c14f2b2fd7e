"""What stands behind `coreml:` in the name of a target: a release, and words that change what is built."""

from __future__ import annotations

import dataclasses
import difflib

from edgec.core.errors import RequestError
from edgec.targets.coreml.versions import DEFAULT_RELEASE, RELEASES, Release

WORDS: dict[str, str] = {
    "tensor": "inputs and outputs stay tensors: no image input, no class labels",
    "stateless": "a decoder's cache stays an input and an output, no state",
    "neural-engine": "channels first, linear layers as 1×1 convolutions, attention head by head",
    "auto": "the form of neural-engine where a rule finds that it fits, else fused attention",
}
"""Every word with what it does, one clause each."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """What a target's name asks for.

    Attributes:
        release: what the package is built for.
        words: the words behind it, a subset of `WORDS`.
    """

    release: Release
    words: frozenset[str]

    def asks_for(self, word: str) -> bool:
        """Whether the word was given.

        Raises:
            KeyError: there is no such word, so nobody could have given it.
        """
        if word not in WORDS:
            raise KeyError(word)
        return word in self.words

    @property
    def name(self) -> str:
        """`coreml:ios18:tensor`: the target's whole name, words in their order."""
        return ":".join(["coreml", self.release.name, *sorted(self.words)])


def variant_named(text: str | None) -> Variant:
    """Read `ios18:tensor`: a release, or nothing for iOS 18, and any number of words.

    Raises:
        RequestError: a part is neither a release nor a word, or comes twice.
    """
    parts = text.split(":") if text else []
    name = DEFAULT_RELEASE
    if parts and parts[0] in RELEASES:
        name, *parts = parts
    for index, part in enumerate(parts):
        if part not in WORDS:
            known = [*RELEASES, *WORDS] if index == 0 else list(WORDS)
            near = difflib.get_close_matches(part, known, n=1)
            raise RequestError(
                f"target coreml has no release or word {part!r}",
                fix=f"did you mean {near[0]}?" if near else f"choose from {', '.join([*RELEASES, *WORDS])}",
            )
        if part in parts[:index]:
            raise RequestError(f"the word {part!r} is given twice", where=f"coreml:{text}")
    return Variant(RELEASES[name], frozenset(parts))
