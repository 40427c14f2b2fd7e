"""`file.py:function`, and what is said where the user's file is wrong."""

import pytest

from edgec.core.errors import RequestError
from edgec.frontends import load

torch = pytest.importorskip("torch")

GOOD = """
import torch
from neighbour import WIDTH

def tiny():
    return torch.nn.Linear(WIDTH, 2).eval(), torch.randn(3, WIDTH)

def fails():
    x = 1
    return x / 0

def nothing():
    pass

def module_only():
    return torch.nn.Linear(4, 2)

def wants(size):
    return torch.nn.Linear(size, 2), torch.randn(3, size)

SIZE = 4
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "neighbour.py").write_text("WIDTH = 4\n")
    path = tmp_path / "model.py"
    path.write_text(GOOD)
    return path


def refusal(spec):
    with pytest.raises(RequestError) as caught:
        load(spec)
    assert caught.value.exit_status == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_function(file):
    graph = load(f"{file}:tiny", seed=3)
    assert graph.source.spec == f"{file}:tiny"
    assert (graph.source.kind, graph.source.name) == ("torch", "model_tiny")
    assert graph.inputs[0].shape == (3, 4)
    assert load(f"{file}:tiny", seed=3).source.sha256 == graph.source.sha256
    assert load(f"{file}:tiny", seed=4).source.sha256 != graph.source.sha256


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("tyny", "has no function 'tyny'; did you mean"),
        ("zzz", "it has tiny, fails, nothing, module_only, wants"),
        ("SIZE", "'SIZE' is no function"),
        ("fails", "the function fails at line 10: ZeroDivisionError: division by zero"),
        ("nothing", "the function returns nothing; return a torch.nn.Module and its example inputs"),
        ("module_only", "the function returns a Linear"),
        ("wants", "the function needs the argument 'size'"),
    ],
)
def test_what_is_wrong_with_a_function_is_said(file, function, words):
    assert words in refusal(f"{file}:{function}")


def test_no_function_named(file):
    assert f"write {file}:FUNCTION" in refusal(str(file))


def test_no_file(tmp_path):
    assert "there is no such file" in refusal(f"{tmp_path}/none.py:tiny")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("def tiny(:\n    pass\n", "importing it fails at line 1: SyntaxError"),
        ("x = 1\nimport nowhere_to_be_found\n", "at line 2: ModuleNotFoundError"),
        ("raise SystemExit(3)\n", "at line 1: SystemExit: 3"),
    ],
)
def test_a_file_that_cannot_be_imported(tmp_path, content, words):
    path = tmp_path / "broken.py"
    path.write_text(content)
    assert words in refusal(f"{path}:tiny")
