"""A plugin's declaration as the C++ that the bindings are compiled with: a `Schema` of `schema.hpp`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edgec.plugins.infra import Plugin, Port
from edgec.plugins.sizes import Sum


def schema(plugin: Plugin, types: Sequence[str]) -> str:
    """The initialiser of a plugin's `Schema`.

    Args:
        plugin: the plugin.
        types: what the ports that are like the first input may be: the types of a kernel.
    """
    attributes = _listed(
        f'{{"{name}", {str(isinstance(default, float)).lower()}, {default!r}}}'
        for name, default in plugin.attributes.items()
    )
    rules = _listed(f'{{"{rule.text}", {_sum(rule.room)}}}' for rule in plugin.parsed_rules)
    kinds = _listed(f"Type::{each.upper()}" for each in types)
    inputs, outputs = (_listed(map(_port, ports)) for ports in (plugin.inputs, plugin.outputs))
    return f'{{"{plugin.op_type}", {kinds},\n {attributes},\n {inputs},\n {outputs},\n {rules}}}'


def _port(port: Port) -> str:
    return f'{{"{port.name}", Kind::{port.kind.name}, {_listed(map(_sum, port.sizes))}}}'


def _sum(total: Sum) -> str:
    return _listed(f'{{{factor}, "{name}"}}' for factor, name in total.terms)


def _listed(items: Iterable[str]) -> str:
    return f"{{{', '.join(items)}}}"
