"""The commands about templates: `leasedb template ls | build | rm`, `leasedb reset` and `leasedb branch`."""

import argparse
import contextlib
import importlib
import json
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import leasedb
from leasedb._arguments import Parser, UsageError, client, edition, label, say, seconds, show, text
from leasedb._models import as_json
from leasedb._sql import Sql, first_line, of_path
from leasedb._tables import count, size
from leasedb._template_showing import template_lines

Add = Callable[..., Parser]  # a name, what runs it, what it does, parsers it inherits from


def add_commands(add: Add) -> None:
    """Add `reset` and `branch`."""
    one = add("reset", _reset, "give a lease's database its template's content again; its URL stays")
    one.add_argument("id", metavar="LEASE")
    one.add_argument("--template", type=text, help="another content: a branch of this lease")
    one.add_argument("--wait", type=seconds, metavar="SECONDS", help="how long to wait for a free one (60)")
    one = add("branch", _branch, "make a template of what a lease's database holds, and print its name")
    one.add_argument("id", metavar="LEASE")
    one.add_argument(
        "template", nargs="?", type=text, metavar="NAME", help="of the template; without one it goes with the lease"
    )
    one.add_argument("--force", action="store_true", help="end the sessions that are open on the database")


def add_template_commands(add: Add) -> None:
    """Add what comes after the word `template`."""
    add("ls", _list, "list the templates").add_argument("--json", action="store_true")
    one = add("build", _build, "build a template from SQL, or by a command, unless it is there", edition())
    one.usage = (
        "leasedb template build NAME --sql FILE [options]\n"
        "       leasedb template build NAME --hash PATH ... [options] -- CMD [ARG ...]"
    )
    one.add_argument("template", metavar="NAME")
    one.add_argument("--sql", metavar="FILE", help="an .sql file or plain dump, a folder of .sql files, or - for stdin")
    one.add_argument("--parent", type=text, default="base", help="the template it is built upon (base)")
    content = one.add_mutually_exclusive_group()
    content.add_argument("--hash", nargs="+", type=Path, metavar="PATH", help="what CMD reads, to notice changes")
    content.add_argument(
        "--fingerprint", type=text, metavar="TEXT", help="what tells this content from another, instead"
    )
    one.add_argument("--wait", type=seconds, default=600.0, metavar="SECONDS", help="for another's build (600)")
    one.add_argument("--ttl", type=seconds, metavar="SECONDS", help="after which a silent CMD is given up (300)")
    one.add_argument(
        "--label", action="append", type=label, metavar="KEY=VALUE", help="of CMD's lease; may be repeated"
    )
    one.set_defaults(command=[])
    one = add("rm", _remove, "delete templates", edition())
    one.add_argument("templates", nargs="+", metavar="NAME")


def failure_lines(error: leasedb.LeasedbError) -> list[str]:
    """Return what a person is told of an error: one line, and more where it is about statements or sessions."""
    if isinstance(error, leasedb.SqlFailedError):
        place = "" if error.line is None else f"{error.file or 'SQL, line'}{':' if error.file else ' '}{error.line}: "
        state = f" (SQLSTATE {error.sqlstate})" if error.sqlstate else ""
        statement = first_line(error.sql)
        lines = [f"{place}{error.message.rstrip('.')}{state}", f"    {statement}" if statement else "", error.hint]
        return [line for line in lines if line]
    if isinstance(error, leasedb.SessionsOpenError):
        return [
            f"{error.detail} --force ends them.",
            *(f"    {' '.join(_session_words(session))}" for session in error.sessions),
        ]
    if isinstance(error, leasedb.TemplateExistsError):
        return [f"{error.detail} Delete it with 'leasedb template rm', or choose another name."]
    return [str(error)]


def _session_words(session: leasedb.OpenSession) -> Iterator[str]:
    yield f"pid {session.pid}"
    yield from (word for word in (session.application, session.state) if word)
    if session.query:
        yield first_line(session.query)


def _list(args: argparse.Namespace) -> int:
    with client(args) as daemon:
        templates = daemon.templates()
    if args.json:
        found = [as_json(template) for template in templates]
        show(json.dumps({"templates": found, "bytes": templates.bytes, "budget": templates.budget}, indent=2))
    else:
        show("\n".join(template_lines(templates)))
    return 0


def _build(args: argparse.Namespace) -> int:
    if bool(args.sql) == bool(args.command):
        raise UsageError("template build needs either --sql FILE or a command after '--'")
    if args.command and not (args.hash or args.fingerprint):
        raise UsageError(
            "only you know what this command makes of a database: name what it reads with --hash PATH ..., "
            "or tell contents apart yourself with --fingerprint TEXT"
        )
    with _sql(args.sql) as sql:
        return _build_by_command(args) if sql is None else _build_from_sql(args, sql)


@contextlib.contextmanager
def _sql(name: str | None) -> Iterator[Sql | None]:
    if name is None:
        yield None
    elif name != "-":
        yield of_path(Path(name))
    else:
        # it is read twice, to see how much it is, and again should the connection break
        with tempfile.NamedTemporaryFile(prefix="leasedb-", suffix=".sql") as copy:
            shutil.copyfileobj(sys.stdin.buffer, copy)
            copy.flush()
            if not copy.tell():
                raise leasedb.UploadIncompleteError("Nothing came from stdin.", hint="See what was to write it.")
            yield of_path(Path(copy.name), "stdin")


def _build_from_sql(args: argparse.Namespace, sql: Sql) -> int:
    with client(args) as daemon:
        template = daemon.put_template(
            args.template,
            sql,
            parent=args.parent,
            fingerprint=_fingerprint(args, daemon, *sql.parts),
            postgres=args.postgres,
            image=args.image,
            wait=args.wait,
        )
    return _built(template)


def _build_by_command(args: argparse.Namespace) -> int:
    running = importlib.import_module("leasedb._running")
    with running.orderly_end(), client(args) as daemon:
        template, lease = daemon.build_template(
            args.template,
            _fingerprint(args, daemon, *args.command) or "",
            parent=args.parent,
            ttl=args.ttl,
            wait=args.wait,
            labels=dict(args.label or ()),
            postgres=args.postgres,
            image=args.image,
        )
        if lease is None:
            return _built(template)
        try:
            code = int(running.supervise(args.command, running.lease_environment(lease.env, lease.id)))
            failed = f"{shlex.join(args.command)} exited with {code}" if code else None
        except running.CommandError as error:
            code, failed = int(error.exit_code), str(error)
        except BaseException:
            daemon.abandon_template(args.template, lease)
            raise
        if failed is not None:
            daemon.abandon_template(args.template, lease, failed)
            say(f"{failed}, so template {args.template} was not built; mend what failed and run this again")
            return code
        return _built(daemon.seal_template(args.template, lease, force=True))


def _fingerprint(args: argparse.Namespace, daemon: "leasedb.Client", *more: str | bytes | Path) -> str | None:
    if args.fingerprint or not args.hash:
        return str(args.fingerprint) if args.fingerprint else None
    parent = "base" if args.parent == "base" else daemon.get_template(args.parent).fingerprint
    return leasedb.fingerprint("template build", parent, *more, *args.hash)


def _built(template: leasedb.Template) -> int:
    show(template.name)
    sys.stdout.flush()
    for note in template.notes:
        say(f"note: {note}")
    much = "" if template.bytes is None else f", {size(template.bytes)}"
    say(f"template {template.name} is ready{much}; use it with: leasedb lease --template {template.name}")
    return 0


def _remove(args: argparse.Namespace) -> int:
    deleted, failed = 0, False
    with client(args) as daemon:
        for name in args.templates:
            try:
                daemon.delete_template(name, postgres=args.postgres, image=args.image)
                deleted += 1
            except (leasedb.TemplateNotFoundError, leasedb.TemplateInUseError, leasedb.TemplateBuiltinError) as error:
                say(str(error))
                failed = True
    show(f"deleted {count(deleted, 'template')}")
    return int(failed)


def _reset(args: argparse.Namespace) -> int:
    with client(args) as daemon:
        ended = daemon.get(args.id).reset(args.template, args.wait)
    sessions = count(ended, "session")
    show(f"reset lease {args.id}, {sessions} ended")
    return 0


def _branch(args: argparse.Namespace) -> int:
    with client(args) as daemon:
        template = daemon.get(args.id).to_template(args.template, force=args.force)
    show(template.name)
    sys.stdout.flush()
    lasts = "" if template.until_lease is None else f"; it goes away with lease {args.id}"
    say(f"use it with: leasedb lease --template {template.name}{lasts}")
    return 0
