"""`edgec verify`: a bundle proves itself, with nothing but what is in it."""

from __future__ import annotations

from edgec.cli import options


def command(bundle: options.BundlePath, as_json: options.AsJson = False) -> None:
    """Prove a bundle from the bundle alone."""
    from edgec.core.bundle import Bundle
    from edgec.core.errors import NumericsError
    from edgec.core.numerics import Gate, compare
    from edgec.runtime.session import Session
    from edgec.targets import open_for_checking

    opened = Bundle.open(bundle)
    with Session(opened, open_for_checking(opened.engine_folder)) as session:
        feeds, references = opened.samples()
        difference = compare(references, [session.run(feed) for feed in feeds])
    precision = opened.manifest["precision"]
    # The bounds that the engine was shipped under: a quantised one has its own.
    gate = Gate(**opened.manifest["numerics"]["gates"][-1]["gate"])
    passed = gate.accepts(difference)
    fields = {
        "bundle": str(opened.path),
        "files": len(opened.manifest["files"]),
        "samples": len(feeds),
        "precision": precision,
        "max_abs": difference.max_abs,
        "scaled": difference.scaled,
        "cosine": difference.cosine,
        "gate": {"scaled": gate.scaled, "cosine": gate.cosine},
        "passed": passed,
    }
    if as_json and passed:
        from edgec.cli.output import print_json

        print_json(fields)
    elif passed:
        print(f"files     {fields['files']} as recorded")
        print(
            f"numerics  {len(feeds)} samples, off by {difference.max_abs:.1e} at most, "
            f"cosine {difference.cosine:.7f}: within the {precision} gate"
        )
    if not passed:
        raise NumericsError(
            f"the engine is off by {difference.scaled:.1e} of the output's spread "
            f"(allowed {gate.scaled:.0e}) with cosine {difference.cosine:.7f} (at least {gate.cosine})",
            where=str(opened.path),
            fix="compile the model again on this machine",
        )
