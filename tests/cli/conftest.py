"""Running the command in this process, on a small transformer block."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from command_line import Command, Done, block_model

from edgec.cli import main


@pytest.fixture
def edgec(capfd: pytest.CaptureFixture[str]) -> Command:
    """Run `edgec` with arguments."""

    def run(*arguments: object) -> Done:
        capfd.readouterr()
        status = main.run([str(argument) for argument in arguments], debug=False)
        said = capfd.readouterr()
        return Done(status, said.out, said.err)

    return run


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    """The small block as a file."""
    path = tmp_path / "block.onnx"
    onnx.save(block_model(), path)
    return path


@pytest.fixture(scope="session")
def shared_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the small block, not to be changed."""
    import edgec

    folder = tmp_path_factory.mktemp("bundle")
    onnx.save(block_model(), folder / "block.onnx")
    return edgec.compile(str(folder / "block.onnx"), target="x86", output=folder / "block.x86.edgec").path
