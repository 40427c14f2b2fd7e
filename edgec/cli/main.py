"""The `edgec` command: one module a subcommand, each imported when it is called."""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import logging
import signal
import sys
import warnings
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from edgec.cli.interrupts import interruptible
from edgec.core import alone, appearing
from edgec.core.errors import EdgecError, NumericsError, Terminated, UnforeseenError
from edgec.core.quoting import printable
from edgec.version import __version__

app = typer.Typer(
    name="edgec",
    help="Compile a trained network for a device at the edge, and prove the result.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

COMMANDS = (
    *("compile", "run", "bench", "verify", "inspect", "report"),
    *(
        "package",
        "export",
        "reseal",
        "deploy",
        "sign",
        "serve",
        "sweep",
        "zoo",
        "passes",
        "ops",
        "devices",
        "doctor",
    ),
)


_SHOWN = 200
"""Letters of a path in a message."""

_SYSTEM_FIX = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EACCES: "check its permissions",
    errno.EPERM: "check its permissions",
    errno.EROFS: "choose another path",
    errno.ENAMETOOLONG: "choose a shorter name",
}

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
    # A file's name may hold half a character, which no encoding has.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    with interruptible(), _own_temporary_folder(), _quiet(debug), alone.working():
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
        _say(_reported(error, arguments), as_json)
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
        return _unexpected(error, arguments, as_json)


def _unexpected(error: Exception, arguments: list[str], as_json: bool) -> int:
    # click's own usage errors know how to say what is wrong with the command line.
    format_message = getattr(error, "format_message", None)
    if callable(format_message):
        _say(EdgecError(str(format_message()).rstrip("."), fix="see edgec COMMAND --help"), as_json, status=2)
        return 2
    if isinstance(error, OSError) and error.filename is not None:
        what = "the disk is full" if error.errno == errno.ENOSPC else f"the system says: {error.strerror}"
        _say(
            EdgecError(what, where=str(error.filename)[:_SHOWN], fix=_SYSTEM_FIX.get(error.errno or 0)),
            as_json,
        )
        return 1
    if isinstance(error, MemoryError):
        _say(EdgecError("there is not enough memory", fix="give it more, or take a smaller model"), as_json)
        return 1
    _say(_reported(error, arguments), as_json)
    return 1


def _reported(error: Exception, arguments: list[str]) -> EdgecError:
    """The error to show; what is edgec's own fault leaves a file for who reports it."""
    if isinstance(error, EdgecError) and not isinstance(error, UnforeseenError):
        return error
    from edgec.cli.failure import explained

    return explained(error, arguments)


def _say(error: EdgecError, as_json: bool, status: int | None = None) -> None:
    print(f"edgec: {printable(str(error))}", file=sys.stderr)
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
def _own_temporary_folder() -> Iterator[None]:
    """All that this process and its libraries write for a while lies in one folder, which goes with it.

    What a process that was killed outright left is removed by the next.
    """
    with contextlib.ExitStack() as stack:
        # Where no temporary file can be made, the commands that need none still run.
        with contextlib.suppress(OSError):
            stack.enter_context(appearing.temporary_room("edgec-process-"))
        yield


if __name__ == "__main__":
    main()
