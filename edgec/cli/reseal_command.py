"""`edgec reseal`: a bundle whose graph was edited, checked and sealed again."""

from __future__ import annotations

from edgec.cli import options


def command(bundle: options.BundlePath, as_json: options.AsJson = False) -> None:
    """Check a Jetson bundle whose engine/model.onnx was edited, and seal it again."""
    from edgec.packaging.reseal import reseal

    fields = reseal(bundle)
    if as_json:
        from edgec.cli.output import print_json

        print_json(fields)
    else:
        print("\n".join([", ".join(fields["changed"]) or fields["bundle"], *fields["said"]]))
