"""`edgec zoo`: the models the project promises to compile."""

from __future__ import annotations

import dataclasses

from edgec.cli import options


def command(as_json: options.AsJson = False) -> None:
    """List the models of the zoo."""
    from edgec import zoo
    from edgec.cli.output import print_json, print_table

    entries = [zoo.entry(name) for name in zoo.names()]
    if as_json:
        print_json({"models": [dataclasses.asdict(entry) for entry in entries]})
        return
    print_table(
        ["name", "task", "weights", "what it is"],
        [[entry.name, entry.task, entry.weights, entry.description] for entry in entries],
    )
