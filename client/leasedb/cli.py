"""The command line: `leasedb serve | exec | lease | release | reset | branch | template | status | psql ...`."""

import argparse
import contextlib
import importlib
import json
import logging
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

import leasedb
from leasedb import _template_commands as about_templates
from leasedb._arguments import Command, Parser, UsageError, client, label, reach, say, wanted, wishes
from leasedb._errors import LeasedbError
from leasedb._tables import count, duration

_INTERRUPTED: Final = 130
_BROKEN_PIPE: Final = 141
_EPILOG = """\
Give any program a fresh Postgres database with pgvector; a daemon is started where none runs:
  leasedb exec -- npm test          DATABASE_URL and PGHOST, PGPORT ... are set; released when it ends
  leasedb lease --ttl 600           prints a DSN
With a schema in it that is applied once, whoever asks:
  leasedb template build shop --sql schema.sql
  leasedb exec --template shop -- npm test
The daemon that is started in the background ends when it has had nothing to do for ten minutes. By hand it is:
  leasedb serve
  leasedb stop
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; every failure is one line on stderr."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    _stand_in_for_closed()
    logging.basicConfig(format="leasedb: %(message)s", level=logging.WARNING)
    try:
        if arguments[:1] in (["serve"], ["clean"]):
            return _served(*arguments)
        code = _run(arguments)
        sys.stdout.flush()
    except UsageError as error:
        say(str(error))
        return 2
    except LeasedbError as error:
        say("\n".join(about_templates.failure_lines(error)))
        return 1
    except OSError as error:
        return _broken_off(error)
    except KeyboardInterrupt:
        return _INTERRUPTED
    return code


def _stand_in_for_closed() -> None:
    """Open something in the place of each standard file that was closed, or the next socket would take its number.

    Writing to what stands for stdout fails, as it does to what is closed.
    """
    for name, flags, mode in (("stdin", os.O_RDONLY, "r"), ("stdout", os.O_RDONLY, "w"), ("stderr", os.O_WRONLY, "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, flags), mode))


def _broken_off(error: OSError) -> int:
    """Say why the output could not be written, unless its reader has left, and return the exit code."""
    # what is yet to be written goes nowhere; Python would complain again when it flushes at exit
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):
        return _BROKEN_PIPE
    say(f"{error.filename or 'the output cannot be written'}: {error.strerror or error}")
    return 1


def _run(arguments: list[str]) -> int:
    # By hand, for argparse loses a "--" that belongs to the command.
    own, dashes, rest = _split(arguments)
    args = _parser().parse_args(own)
    if dashes and not hasattr(args, "command"):
        raise UsageError(f"{args.name!r} runs no command, so there is nothing to put after '--'")
    if dashes:
        args.command = [*args.command, "--", *rest] if args.command else rest
    command: Command = args.run
    return command(args)


def _split(arguments: list[str]) -> tuple[list[str], bool, list[str]]:
    if "--" not in arguments:
        return arguments, False, []
    at = arguments.index("--")
    return arguments[:at], True, arguments[at + 1 :]


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="leasedb",
        description="Fresh, isolated Postgres databases with pgvector, on lease.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[reach()],
    )
    parser.add_argument("--version", action="version", version=f"leasedb {leasedb.__version__}")
    add = _adder(parser, "name")
    add("serve", _misplaced, "run the daemon")
    one = add("exec", _exec, "run a command with a database of its own", wishes())
    one.usage = "leasedb exec [options] -- CMD [ARG ...]"
    one.add_argument("command", nargs=argparse.REMAINDER, metavar="CMD", help="what to run, with its arguments")
    one = add("lease", _lease, "take a lease and print its DSN; it lives until its time is over", wishes())
    form = one.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print the whole lease")
    form.add_argument("--env", action="store_true", help="print lines for a shell to eval")
    one = add("release", _release, "give leases back")
    one.add_argument("ids", nargs="*", metavar="ID")
    one.add_argument("--label", action="append", type=label, metavar="KEY=VALUE", help="all that have it; repeat: and")
    one.add_argument("--sync", action="store_true", help="return only once the databases are gone")
    one = add("kept", _kept, "list the leases that stay to be looked at, as those of failed tests, or drop them")
    form = one.add_mutually_exclusive_group()
    form.add_argument("--drop", nargs="+", metavar="ID", help="give these back")
    form.add_argument("--drop-all", action="store_true", help="give all of them back")
    one.add_argument("--json", action="store_true")
    about_templates.add_commands(add)
    one = add("template", _misplaced, "list, build and delete templates")
    about_templates.add_template_commands(_adder(one, "what"))
    add("status", _status, "show the daemon, its servers, its pool and the active leases").add_argument(
        "--json", action="store_true"
    )
    one = add("psql", _psql, "open psql on a lease, or on a new one that ends with it", wishes())
    one.usage = "leasedb psql [options] [ID] [-- ARG ...]"
    one.add_argument("id", nargs="?", metavar="ID", help="of a lease; a new one when left out")
    one.set_defaults(command=[])
    add("doctor", _doctor, "say what works here and what is missing")
    add("stop", _stop, "stop the daemon, if it runs on this machine, and wait until it has ended")
    add("clean", _misplaced, "take away what a stopped daemon kept so that its servers start quickly")
    return parser


def _adder(parser: Parser, word: str) -> Callable[..., Parser]:
    """Return what adds a command to a parser; its name will be known as ``word``."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest=word, required=True)

    def add(name: str, run: Command, text: str, *parents: Parser) -> Parser:
        one = commands.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}.", parents=[*parents, reach()]
        )
        one.set_defaults(run=run)
        return one

    return add


def _served(name: str, *arguments: str) -> int:
    """Run a command of the daemon's, whose options are its settings."""
    try:
        cli = importlib.import_module("leasedb_server.cli")
        return int((cli.main if name == "serve" else cli.clean)(arguments) or 0)
    except ModuleNotFoundError as error:
        say(f"the daemon needs {error.name}, which is not installed. Run: pip install 'leasedb[server,embedded]'")
        return 1


def _misplaced(args: argparse.Namespace) -> int:
    name, option = args.name, "--token TOKEN" if args.name == "serve" else "--state-dir DIR"
    raise UsageError(f"options of {name} come after the word: leasedb {name} {option} (see: leasedb {name} --help)")


def _exec(args: argparse.Namespace) -> int:
    if not args.command:
        raise UsageError("exec needs a command: leasedb exec -- CMD [ARG ...]")
    return _run_leased(args, args.command)


def _run_leased(args: argparse.Namespace, command: list[str]) -> int:
    running = importlib.import_module("leasedb._running")
    code = 1
    try:
        with running.orderly_end(), client(args) as daemon, daemon.lease(**wanted(args)) as lease:
            code = int(running.supervise(command, running.lease_environment(lease.env, lease.id)))
    except running.CommandError as error:
        say(str(error))
        return int(error.exit_code)
    return code


def _lease(args: argparse.Namespace) -> int:
    with client(args) as daemon:
        # no pid: it shall outlive this process
        lease = daemon.acquire(**wanted(args), pid=None, heartbeat=False)
    if args.json:
        print(json.dumps(_models().as_json(lease.record), indent=2))
    elif args.env:
        for name, value in sorted({**lease.env, "LEASEDB_LEASE_ID": lease.id}.items()):
            print(f"export {name}={shlex.quote(value)}")
    else:
        print(lease.dsn)
    sys.stdout.flush()
    when = f"{lease.expires_at.astimezone():%H:%M:%S}"
    say(f"lease {lease.id} ends at {when}, in {duration(lease.ttl)}; sooner with: leasedb release {lease.id}")
    return 0


def _release(args: argparse.Namespace) -> int:
    if bool(args.ids) == bool(args.label):
        raise UsageError("release needs either the ids of leases or a --label")
    released, failed = 0, False
    with client(args) as daemon:
        if args.label:
            released = daemon.release_all(dict(args.label), sync=args.sync)
        for lease_id in args.ids:
            try:
                daemon.release(lease_id, sync=args.sync)
                released += 1
            except leasedb.LeaseNotFoundError as error:
                say(str(error))
                failed = True
    print(f"released {count(released, 'lease')}")
    return int(failed)


def _status(args: argparse.Namespace) -> int:
    showing = _showing()
    with client(args) as daemon:
        status = showing.ask_status(daemon)
    if args.json:
        print(json.dumps(_models().as_json(status), indent=2))
    else:
        print("\n".join(showing.status_lines(status)))
    return 0


def _psql(args: argparse.Namespace) -> int:
    if args.id is None:
        if shutil.which("psql") is None:
            say("psql is not installed; 'leasedb lease' prints a DSN for any other program")
            return 1
        return _run_leased(args, ["psql", *args.command])
    with client(args) as daemon:
        lease = daemon.get(args.id)
    if lease.state != "active":
        say(f"lease {lease.id} is {lease.state}: {lease.record.end_reason or 'its login is refused'}")
        return 1
    environment = importlib.import_module("leasedb._running").lease_environment(lease.env, lease.id)
    with contextlib.suppress(FileNotFoundError):
        os.execvpe("psql", ["psql", *args.command], environment)  # noqa: S606, S607 - whatever psql the user has
    say("psql is not installed; here is the DSN for any other program")
    print(lease.dsn)
    return 1


def _doctor(args: argparse.Namespace) -> int:
    with client(args) as daemon:
        findings, serves = _showing().examine(daemon)
    for finding in findings:
        print(finding)
    if not serves:
        say("nothing can serve databases here; start with one of the lines marked 'no'")
    return 0 if serves else 1


def _kept(args: argparse.Namespace) -> int:
    return int(importlib.import_module("leasedb._kept").run(args))


def _stop(args: argparse.Namespace) -> int:
    return int(importlib.import_module("leasedb._stopping").run(args))


def _showing() -> Any:
    return importlib.import_module("leasedb._showing")


def _models() -> Any:
    return importlib.import_module("leasedb._models")


if __name__ == "__main__":
    sys.exit(main())
