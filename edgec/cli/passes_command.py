"""`edgec passes`: what is done to a graph, in order, and what a name puts in."""

from __future__ import annotations

import inspect

from edgec.cli import options


def command(as_json: options.AsJson = False) -> None:
    """List the passes: those that every compile runs, in order, and those that an option puts in."""
    from edgec.cli.output import print_json, print_table
    from edgec.passes.infra import registered
    from edgec.passes.pipeline import default_pipeline

    always = default_pipeline().names
    known = registered()
    rows = [
        {
            "name": name,
            "runs": "always" if name in always else _asked_for(name),
            "exact": known[name].exact,
            "what": _first_sentence(known[name]),
        }
        for name in (*always, *sorted(set(known) - set(always)))
    ]
    if as_json:
        print_json({"passes": rows})
        return
    print_table(
        ["pass", "runs", "keeps the outputs", "what it does"],
        [[row["name"], row["runs"], "yes" if row["exact"] else "no", row["what"]] for row in rows],
    )
    print("--passes -NAME takes one out, +NAME puts one in; docs/writing-a-pass.md says how to write one")


def _asked_for(name: str) -> str:
    """What puts a pass in that is not always run."""
    return "with --tokens" if name.startswith("tokens.") else f"with --passes +{name}"


def _first_sentence(cls: type) -> str:
    """The first sentence of a pass's docstring, which goes on with the graph before and after."""
    paragraph = " ".join((inspect.getdoc(cls) or "").partition("\n\n")[0].split())
    return paragraph.partition(". ")[0].rstrip(".:")
