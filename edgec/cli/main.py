"""The `edgec` command: one module a subcommand, each imported when it is called."""

from __future__ import annotations

import contextlib
import errno
import importlib
import logging
import signal
import sys
import warnings
from collections.abc import Iterator
from types import FrameType
from typing import Annotated, Any

import typer

from edgec.core.errors import EdgecError, NumericsError, Terminated
from edgec.version import __version__

app = typer.Typer(
    name="edgec",
    help="Compile a trained network for a device at the edge, and prove the result.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

COMMANDS = (
    *("compile", "run", "bench", "verify", "inspect", "report"),
    *("package", "deploy", "zoo", "devices", "doctor"),
)


STOPPED = {130: "interrupted", 143: "terminated"}
"""Exit status after Ctrl-C and after a polite kill: 128 and the signal's number, as shells count."""


def _version(asked: bool) -> None:
    if asked:
        print(f"edgec {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[
        bool, typer.Option("--debug", help="show tracebacks and the libraries' own messages")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """Compile a trained network for a device at the edge, and prove the result."""


for _name in COMMANDS:
    app.command(_name)(importlib.import_module(f"edgec.cli.{_name}_command").command)


def main() -> None:
    """Entry point: run a command and turn a failure into one sentence and an exit status."""
    debug = "--debug" in sys.argv
    # A flag of the whole program may stand anywhere on the line.
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    with _interruptible(), _quiet(debug):
        status = run(arguments, debug)
    if status in STOPPED:
        print(f"edgec: {STOPPED[status]}; nothing half written is left", file=sys.stderr)
    sys.exit(status)


def run(arguments: list[str], debug: bool) -> int:
    """Run one command line and return its exit status; with `debug`, exceptions pass through."""
    as_json = "--json" in arguments
    try:
        result = app(arguments, prog_name="edgec", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except EdgecError as error:
        if debug:
            raise
        _say(error, as_json)
        return error.exit_status
    except Terminated:
        return 128 + signal.SIGTERM
    except (KeyboardInterrupt, typer.Abort):
        return 128 + signal.SIGINT
    except typer.Exit as stop:
        return stop.exit_code
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except Exception as error:
        if debug:
            raise
        return _unexpected(error, as_json)


def _unexpected(error: Exception, as_json: bool) -> int:
    # click's own usage errors know how to say what is wrong with the command line.
    format_message = getattr(error, "format_message", None)
    if callable(format_message):
        _say(EdgecError(str(format_message()).rstrip("."), fix="see edgec COMMAND --help"), as_json, status=2)
        return 2
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        _say(EdgecError("the disk is full", where=error.filename, fix="free some space"), as_json)
        return 1
    text = str(error).strip().splitlines()
    said = text[0] if text else "no message"
    _say(
        EdgecError(f"unexpected {type(error).__name__}: {said}", fix="run again with --debug to see where"),
        as_json,
    )
    return 1


def _say(error: EdgecError, as_json: bool, status: int | None = None) -> None:
    print(f"edgec: {error}", file=sys.stderr)
    if as_json:
        from edgec.cli.output import print_json

        fields: dict[str, Any] = {"what": error.what, "where": error.where, "fix": error.fix}
        if isinstance(error, NumericsError):
            fields["gates"] = list(error.details)
        print_json({"error": fields, "exit_status": status or error.exit_status})


@contextlib.contextmanager
def _quiet(debug: bool) -> Iterator[None]:
    """Keep the libraries' own chatter away from the user, except with --debug."""
    if debug:
        # The frontends let the exporters speak where edgec's own logger is this talkative.
        logging.getLogger("edgec").setLevel(logging.DEBUG)
        yield
        return
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let a polite kill unwind like Ctrl-C, so that nothing half written stays."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        # `timeout` sends the signal twice: the second must not cut the unwinding short.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Terminated

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    main()
