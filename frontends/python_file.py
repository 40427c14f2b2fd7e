"""`file.py:function`: a function of the user's that returns a module and example inputs."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import inspect
import os.path
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from edgec.core.errors import EdgecError, RequestError
from edgec.core.graph import Graph
from edgec.core.progress import Progress
from edgec.frontends.quiet import quiet
from edgec.frontends.torchvision_guard import prepare_torchvision, require


def from_python_file(
    path: str,
    function: str,
    *,
    example: str | Path | None = None,
    inputs: Sequence[str] = (),
    batch: int | None = None,
    seed: int = 0,
    samples: int = 3,
    progress: Progress | None = None,
) -> Graph:
    """Import the file, call the function, and trace the module it returns.

    The function takes no arguments and returns `(module, example_inputs)`; the example inputs are a
    tensor, a tuple in the order of `forward`, or a dict by parameter name. torch is seeded before.

    Raises:
        RequestError: the file or the function is not there, fails, or returns something else.
        JobError: no exporter reproduces the module.
    """
    from edgec.frontends.torch import from_module

    file = Path(path)
    spec = f"{path}:{function}"
    if not os.path.isfile(file):  # noqa: PTH113 (also where the name is too long or has a NUL)
        there = os.path.exists(file)  # noqa: PTH110
        raise RequestError("this is no file" if there else "there is no such file", where=path[:200])
    torch = require("torch", "torch")
    prepare_torchvision()
    torch.manual_seed(seed)
    with quiet():
        found = _function(_import(file), function, path)
        returned = _call(found, file, spec)
    if not (isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[0], torch.nn.Module)):
        raise RequestError(
            f"the function returns {_kind(returned)}",
            where=spec,
            fix="return a torch.nn.Module and its example inputs: return module, (tensor,)",
        )
    module, example_inputs = returned
    return from_module(
        module,
        example_inputs,
        spec=spec,
        name=_name(found, function, file),
        weights="from the function",
        example=example,
        inputs=inputs,
        batch=batch,
        seed=seed,
        samples=samples,
        progress=progress,
    )


def _import(file: Path) -> ModuleType:
    # The name keeps two files of the same stem apart, and the file's neighbours can be imported.
    name = f"edgec_user_{file.stem}_{hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:8]}"
    loader = importlib.util.spec_from_file_location(name, file)
    assert loader is not None
    assert loader.loader is not None
    module = importlib.util.module_from_spec(loader)
    sys.modules[name] = module  # dataclasses and pickle look it up
    sys.path.insert(0, str(file.resolve().parent))
    try:
        loader.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _user_error(error, file, "importing it fails", str(file)) from error
    finally:
        sys.path.remove(str(file.resolve().parent))
    return module


def _name(found: Callable[[], Any], function: str, file: Path) -> str:
    """A short name: the file's, and the function's where the file has others. Most are called `make`."""
    module = sys.modules.get(getattr(found, "__module__", ""))
    others = [name for name in _functions(module) if name != function] if module is not None else []
    return f"{file.stem}_{function}" if others and function != "main" else file.stem


def _functions(module: ModuleType) -> list[str]:
    """The functions that a file defines, those that it keeps to itself left out."""
    return [
        key
        for key, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not key.startswith("_")
    ]


def _function(module: ModuleType, name: str, path: str) -> Callable[[], Any]:
    found = getattr(module, name, None) if name else None
    if found is not None and callable(found):
        return found
    functions = _functions(module)
    near = difflib.get_close_matches(name, functions, n=1)
    if near:
        fix = f"did you mean {path}:{near[0]}?"
    elif functions:
        fix = f"it has {', '.join(functions)}"
    else:
        fix = "define a function that returns a module and example inputs"
    missing = f"the file has no function {name!r}" if found is None else f"{name!r} is no function"
    raise RequestError(missing, where=path, fix=fix)


def _call(function: Callable[[], Any], file: Path, spec: str) -> Any:
    try:
        required = [
            parameter.name
            for parameter in inspect.signature(function).parameters.values()
            if parameter.default is parameter.empty
            and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        ]
    except (TypeError, ValueError):
        required = []
    if required:
        raise RequestError(
            f"the function needs the argument {required[0]!r}",
            where=spec,
            fix="name a function without arguments, or give it defaults",
        )
    try:
        return function()
    except EdgecError:
        raise
    except (Exception, SystemExit) as error:
        raise _user_error(error, file, "the function fails", spec) from error


def _user_error(error: BaseException, file: Path, what: str, where: str) -> RequestError:
    line = None
    if isinstance(error, SyntaxError) and Path(error.filename or "").resolve() == file.resolve():
        line = error.lineno
    else:
        for frame in traceback.extract_tb(error.__traceback__):
            if Path(frame.filename).resolve() == file.resolve():
                line = frame.lineno
    at = "" if line is None else f" at line {line}"
    message = error.msg if isinstance(error, SyntaxError) else str(error).strip().partition("\n")[0]
    return RequestError(
        f"{what}{at}: {type(error).__name__}" + (f": {message}" if message else ""), where=where
    )


def _kind(value: object) -> str:
    if isinstance(value, tuple):
        return f"a tuple of {', '.join(type(entry).__name__ for entry in value) or 'nothing'}"
    return f"a {type(value).__name__}" if value is not None else "nothing"
