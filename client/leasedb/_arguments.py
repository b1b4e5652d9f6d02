"""What the commands have in common: how they read their arguments, reach the daemon and speak."""

import argparse
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import leasedb

Command = Callable[[argparse.Namespace], int]


class UsageError(Exception):
    """The command line does not make sense."""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as everything else here does."""

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"leasedb: {message} (see: {self.prog} --help)\n")
        raise SystemExit(2)


def reach() -> Parser:
    """Return the options that say where the daemon is."""
    parser = Parser(add_help=False, argument_default=argparse.SUPPRESS)
    parser.add_argument("--url", help="where the daemon listens (LEASEDB_URL; http://127.0.0.1:7432)")
    parser.add_argument("--token", help="what it asks for (LEASEDB_TOKEN)")
    return parser


def edition() -> Parser:
    """Return the options that say which Postgres."""
    parser = Parser(add_help=False)
    parser.add_argument("--postgres", type=text, metavar="MAJOR", help="the Postgres version, such as 18")
    parser.add_argument("--image", type=text, help="the image of the server, such as pgvector/pgvector:pg17")
    return parser


def wishes() -> Parser:
    """Return the options that say what lease is wanted; `wanted` reads them."""
    parser = Parser(add_help=False, parents=[edition()])
    parser.add_argument(
        "--template", type=text, default="base", help="what to clone (base: empty, with the extension vector)"
    )
    parser.add_argument("--ttl", type=seconds, metavar="SECONDS", help="how long it lives unless renewed (300)")
    parser.add_argument("--wait", type=seconds, metavar="SECONDS", help="how long to wait for a free one (60)")
    parser.add_argument("--label", action="append", type=label, metavar="KEY=VALUE", help="may be repeated")
    parser.add_argument("--exclusive", action="store_true", help="a whole server, with a superuser login")
    parser.add_argument("--database", type=text, help="name of the database, with --exclusive")
    parser.add_argument("--user", type=text, help="name of the login, with --exclusive")
    return parser


def wanted(args: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of `Client.acquire` that the options say.

    Raises:
        UsageError: they contradict each other.
    """
    if not args.exclusive and (args.database or args.user):
        raise UsageError("--database and --user name things on a server of one's own: they need --exclusive")
    return {
        "template": args.template,
        "ttl": args.ttl,
        "wait": args.wait,
        "labels": dict(args.label or ()),
        "postgres": args.postgres,
        "image": args.image,
        "server": "exclusive" if args.exclusive else "shared",
        "database": args.database,
        "user": args.user,
    }


def seconds(argument: str) -> float:
    try:
        return float(argument)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{argument!r} is not a number of seconds") from None


def label(argument: str) -> tuple[str, str]:
    key, equals, value = text(argument).partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{argument!r} is not KEY=VALUE")
    return key, value


def text(argument: str) -> str:
    """Return an argument that JSON can carry; a command line may have bytes that are no text."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{argument!r} is not text") from None
    return argument


def client(args: argparse.Namespace) -> "leasedb.Client":
    return leasedb.Client(getattr(args, "url", None), getattr(args, "token", None))


def show(text: str) -> None:
    """Print what was asked for."""
    sys.stdout.write(f"{text}\n")


def say(text: str) -> None:
    """Print what is worth knowing besides."""
    sys.stderr.write(f"leasedb: {text}\n")
