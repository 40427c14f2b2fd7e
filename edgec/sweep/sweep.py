"""A sweep from its plan to its results: what is done is kept, what is left is run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from edgec.core.errors import RequestError
from edgec.sweep import page, pool, results
from edgec.sweep.cells import Runner
from edgec.sweep.plan import Cell, Plan
from edgec.sweep.rows import Row

Run = Callable[[Runner, list[Cell], Callable[[Row], None]], None]
"""Runs cells and tells each row; `pool.run` or another machine's."""


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A plan and the folder of its results.

    Attributes:
        plan: what is compiled.
        runner: runs one cell into that folder.
    """

    plan: Plan
    runner: Runner

    def rows(self) -> list[Row]:
        """What has come of the plan's cells so far, in the plan's order."""
        done = (self.runner.done(cell) for cell in self.plan.cells)
        return [row for row in done if row is not None]

    def go_on(self, run: Run, told: Callable[[Row], None]) -> list[Row]:
        """Run what has not run yet; results and page are written however it ends.

        Args:
            run: runs cells.
            told: called with each new row.

        Returns:
            the rows of all cells, in the plan's order.

        Raises:
            RequestError: the folder cannot be made.
        """
        folder = self.runner.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RequestError(f"cannot be made: {error.strerror}", where=str(folder)) from None
        left = [cell for cell in self.plan.cells if self.runner.done(cell) is None]
        try:
            if left:
                run(self.runner, left, told)
        finally:
            rows = self.rows()
            results.write(folder, rows)
            page.write(folder, self.plan.name, rows, len(self.plan.cells))
        return rows


def on_this_machine(jobs: int) -> Run:
    """Runs cells in processes of this machine, so many at once."""

    def run(runner: Runner, cells: list[Cell], told: Callable[[Row], None]) -> None:
        pool.run(runner, cells, jobs, told)

    return run
