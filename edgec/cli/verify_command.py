"""`edgec verify`: a bundle proves itself, with nothing but what is in it."""

from __future__ import annotations

from edgec.cli import options


def command(bundle: options.BundlePath, as_json: options.AsJson = False) -> None:
    """Prove a bundle from the bundle alone."""
    from edgec.core.bundle import Bundle
    from edgec.core.errors import IntegrityError, NumericsError
    from edgec.core.numerics import Gate
    from edgec.runtime.session import Session
    from edgec.targets import open_for_checking

    opened = Bundle.open(bundle)
    with Session(opened, open_for_checking(opened.engine_folder)) as session:
        feeds, expected = opened.samples()
        results = [session.run(feed) for feed in feeds]
        try:
            # The bounds that the engine was shipped under: a quantised one has its own.
            gate = Gate(**opened.manifest["numerics"]["gates"][-1]["gate"])
            difference = expected.difference(results, gate)
            broken = gate.broken(difference)
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            raise IntegrityError(
                "its gate or its samples do not fit its engine",
                where=str(opened.path),
                fix="compile the model again",
            ) from error
    precision = opened.manifest["precision"]
    passed = not broken
    fields = {
        "bundle": str(opened.path),
        "files": len(opened.manifest["files"]),
        "samples": len(feeds),
        "precision": precision,
        "max_abs": difference.max_abs,
        "scaled": difference.scaled,
        "cosine": difference.cosine,
        "rms": difference.rms,
        "near_ties": difference.near_ties,
        "output": difference.output,
        "gate": {"scaled": gate.scaled, "rms": gate.rms, "unequal": gate.unequal},
        "passed": passed,
    }
    if as_json and passed:
        from edgec.cli.output import print_json

        print_json(fields)
    elif passed:
        print(f"files     {fields['files']} as recorded")
        print(
            f"numerics  {len(feeds)} samples, off by {difference.max_abs:.1e} at most, "
            f"{difference.scaled:.1e} of the output's spread: within the {precision} gate"
        )
    if not passed:
        raise NumericsError(
            f"output {difference.output!r} of the engine is {broken}",
            where=str(opened.path),
            fix="compile the model again on this machine",
        )
