"""Compile `zoo:vit_digits` for this machine, prove it, measure it, and read some handwriting.

make demo
"""

from __future__ import annotations

import numpy as np

import edgec
from edgec import zoo
from edgec.cli.output import print_table
from edgec.core.progress import progress
from edgec.report.assemble import summary

NAME = "vit_digits"


def main() -> None:
    with progress() as steps:
        bundle = edgec.compile(f"zoo:{NAME}", target="x86", progress=steps)
    fields = summary(bundle)
    report = bundle.report()

    print(f"compiled zoo:{NAME} for {report['device']['name']}")
    print_table(
        ["engine", "role", "p50 ms", "p90 ms", "spread %", "ratio to the best plain engine"],
        [
            [
                entry["name"],
                entry["role"],
                entry["p50"],
                entry["p90"],
                None if entry["spread"] is None else entry["spread"] * 100,
                entry["ratio_to_best_baseline"],
            ]
            for entry in report["latency"]["entries"]
        ],
    )

    accuracy = fields["accuracy"]
    print(f"\naccuracy on {accuracy['samples']} held-out digits")
    print(f"  source (torch)  {accuracy['source']:.2%}")
    print(f"  engine          {accuracy['engine']:.2%}")
    print(f"  off by          {fields['numerics']['max_abs']:.1e} at most against the source's own outputs")

    evaluation = zoo.evaluation(NAME)
    assert evaluation is not None
    [name] = evaluation.inputs
    with edgec.load(bundle.path) as session:
        chosen = np.linspace(0, len(evaluation.labels) - 1, 12).astype(int)
        read = [
            int(next(iter(session.run({name: evaluation.inputs[name][index : index + 1]}).values())).argmax())
            for index in chosen
        ]
    print(f"\nwritten  {' '.join(str(int(evaluation.labels[index])) for index in chosen)}")
    print(f"read     {' '.join(map(str, read))}")
    print(f"\nbundle   {bundle.path}")
    print(f"report   {fields['report']}")


if __name__ == "__main__":
    main()
