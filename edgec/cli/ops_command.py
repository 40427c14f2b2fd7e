"""`edgec ops`: the operators of the domain ai.edgec, and what has a kernel for each."""

from __future__ import annotations

from edgec.cli import options


def command(as_json: options.AsJson = False) -> None:
    """List edgec's own operators and their kernels; without one, ONNX's own operators stand for it."""
    from edgec.cli.output import print_json, print_table
    from edgec.core.dialect import EDGEC_DOMAIN
    from edgec.plugins.infra import plugins

    rows = [
        {
            "name": name,
            "domain": EDGEC_DOMAIN,
            "inputs": [port.name for port in plugin.inputs],
            "outputs": [port.name for port in plugin.outputs],
            "attributes": dict(plugin.attributes),
            "kernels": sorted(plugin.kernels),
            "what": plugin.doc.rstrip("."),
        }
        for name, plugin in sorted(plugins().items())
    ]
    if as_json:
        print_json({"ops": rows})
        return
    print_table(
        ["operator", "kernels", "inputs", "what it computes"],
        [[row["name"], _listed(row["kernels"]), _listed(row["inputs"]), row["what"]] for row in rows],
    )
    print(f"in the domain {EDGEC_DOMAIN}; docs/writing-a-plugin.md says how to write one")


def _listed(names: object) -> str:
    assert isinstance(names, list)
    return ", ".join(names) or "–"
