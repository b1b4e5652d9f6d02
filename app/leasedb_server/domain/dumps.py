"""What a plain dump of pg_dump says that a lease's login cannot carry out, and need not: it is passed over and noted.

Everything else that fails is an error. Which statements there are, see src/bin/pg_dump/pg_dump.c and
pg_backup_archiver.c beside it.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from leasedb_server.domain.errors import SqlFailedError
from leasedb_server.domain.statements import SHOWN, Statement

HEAD: Final = 1000  # characters at the beginning of a text that tell what it is

_HEADER: Final = re.compile(r"(?:\s|--[ \t\r]*\n)*-- PostgreSQL database (cluster )?dump\b")
# what pg_dump writes next; Rails takes the header away from its structure.sql
_PROLOGUE: Final = re.compile(
    r"(?:\s|--[^\n]*\n|\\restrict[^\n]*\n)*SET statement_timeout = 0;\s+SET lock_timeout = 0;"
)
_ONE_DATABASE: Final = "Dump one database: pg_dump without --create, and not pg_dumpall."
_NO_SUPERUSER: Final = (
    "A lease's login is no superuser: leave such things out of the dump, as pg_dump --no-publications does."
)

# https://www.postgresql.org/docs/current/errcodes-appendix.html
_UNDEFINED: Final = frozenset({"3F000", "42704", "42883", "42P01"})  # schema, object, function, table
_NOT_OURS: Final = frozenset({"0LP01", "42501"})  # invalid grant operation, insufficient privilege


@dataclass(frozen=True, slots=True)
class Rule:
    """Statements that are passed over.

    Args:
        pattern: of the statement from its beginning; its groups are shown in ``what``.
        what: how people call it.
        why: it does not matter.
        states: the SQLSTATEs with which it may fail; empty when it is not run at all.
    """

    pattern: re.Pattern[str]
    what: str
    why: str
    states: frozenset[str] = frozenset()

    def name(self, sql: str) -> str:
        found = self.pattern.match(sql)
        return self.what.format(*(found.groups("") if found else ()))


def _rule(pattern: str, what: str, why: str, *states: str) -> Rule:
    return Rule(re.compile(pattern, re.IGNORECASE | re.DOTALL), what, why, frozenset(states))


_OWN: Final = "everything belongs to the lease's login"
_CLEAN: Final = "what they are to take away is not there"
_RULES: Final = (
    _rule(r'ALTER\s.*\sOWNER\s+TO\s+(?:"(?:[^"]|"")+"|[\w$]+)\Z', "ALTER ... OWNER TO", _OWN),
    _rule(r"(?:SET|RESET)\s+SESSION\s+AUTHORIZATION\b", "SET SESSION AUTHORIZATION", _OWN),
    _rule(r"COMMENT\s+ON\s+EXTENSION\b", "COMMENT ON EXTENSION", "the extensions belong to the server"),
    _rule(
        r"(GRANT|REVOKE|ALTER\s+DEFAULT\s+PRIVILEGES)\b",
        "{0}",
        "they name roles that are not there, or something that is not the login's",
        "42704",
        *_NOT_OURS,
    ),
    _rule(r"SET\s+(?:SESSION\s+)?([\w.]+)", "SET {0}", "this server does not have the setting", "42704"),
    _rule(r"SET\s+default_tablespace\b", "SET default_tablespace", "the tablespace is not there", "22023"),
    _rule(r"CREATE\s+SCHEMA\s+public\Z", "CREATE SCHEMA public", "it is there already", "42P06"),
    _rule(r"COMMENT\s+ON\s+SCHEMA\s+public\b", "COMMENT ON SCHEMA public", "it is not the login's", "42501"),
    _rule(r"CREATE\s+EXTENSION\b", "CREATE EXTENSION", "it is there already", "42710"),
    # --clean
    _rule(r"DROP\s+EXTENSION\b", "DROP EXTENSION", "the extensions belong to the server", *_NOT_OURS, *_UNDEFINED),
    _rule(r"DROP\s+SCHEMA\s+(?:IF\s+EXISTS\s+)?public\Z", "DROP SCHEMA public", "it is in use", "2BP01", "42501"),
    _rule(r"DROP\s", "DROP", _CLEAN, *_UNDEFINED),
    _rule(
        r"ALTER\s+(?:TABLE|INDEX|DOMAIN)\s.*\s(?:DROP\s+CONSTRAINT|DROP\s+DEFAULT|DROP\s+IDENTITY|DETACH\s+PARTITION)\b",
        "ALTER ... DROP",
        _CLEAN,
        *_UNDEFINED,
    ),
    _rule(r"SELECT\s+pg_catalog\.lo_unlink\(", "SELECT lo_unlink", _CLEAN, "42704"),
    # --statistics
    _rule(
        r"SELECT\s+(?:\*\s+FROM\s+)?pg_catalog\.pg_restore_\w+_stats\(",
        "SELECT pg_restore_..._stats",
        "this server does not know them",
        "42883",
    ),
)
_REFUSED: Final = re.compile(
    r"(?:CREATE|ALTER|DROP)\s+(?:ROLE|USER(?!\s+MAPPING\b)|GROUP|DATABASE|TABLESPACE)\b", re.IGNORECASE
)
_EXTENSION: Final = re.compile(
    r'CREATE\s+EXTENSION\s+(?:IF\s+NOT\s+EXISTS\s+)?("(?:[^"]|"")+"|\w+)\s+WITH\s+SCHEMA\s+("(?:[^"]|"")+"|\w+)\Z',
    re.IGNORECASE,
)


@dataclass(slots=True)
class Dump:
    """A dump while it is run: what has been passed over in it."""

    passed: Counter[tuple[str, str]] = field(default_factory=Counter)
    remarks: list[str] = field(default_factory=list)

    def refuse(self, statement: Statement) -> None:
        """Raise when the statement concerns more than one database, and so cannot be a lease's."""
        found = _REFUSED.match(statement.text)
        if found:
            what = " ".join(found[0].upper().split())
            raise SqlFailedError(
                f"Statement {statement.number} (line {statement.line}) is {what}, which a lease's login may not run.",
                statement=statement.number,
                line=statement.line,
                sql=statement.text[:SHOWN],
                hint=_ONE_DATABASE,
            )

    def rules(self, statement: Statement) -> list[Rule]:
        return [rule for rule in _RULES if rule.pattern.match(statement.text)]

    def pass_over(self, statement: Statement, rule: Rule) -> None:
        self.passed[rule.name(statement.text), rule.why] += 1

    def hints(self, sqlstate: str | None) -> list[str]:
        """Return what may help when a statement fails, one sentence each."""
        remarks = [f"Note that {remark}." for remark in self.remarks]
        return [_NO_SUPERUSER, *remarks] if sqlstate in _NOT_OURS else remarks

    def notes(self) -> tuple[str, ...]:
        """Return what people should know, one sentence each."""
        passed = (
            f"skipped {count} {'statement' if count == 1 else 'statements'} {what}: {why}"
            for (what, why), count in self.passed.items()
        )
        return (*passed, *self.remarks)


def recognised(head: str) -> Dump | None:
    """Tell by the beginning of a text whether it is a dump.

    Raises:
        SqlFailedError: when it is a dump of another kind.
    """
    if head.startswith("PGDMP"):
        raise SqlFailedError(
            "The text is a dump in pg_dump's custom format.", line=1, hint="Make text of it: pg_restore -f - FILE."
        )
    head = head.removeprefix("\ufeff")
    found = _HEADER.match(head)
    if found and found[1]:
        raise SqlFailedError("The text is a dump of a whole server by pg_dumpall.", line=1, hint=_ONE_DATABASE)
    return Dump() if found or _PROLOGUE.match(head) else None


def extension_and_schema(sql: str) -> tuple[str, str] | None:
    """Return which extension a CREATE EXTENSION wants, and in which schema."""
    found = _EXTENSION.match(sql)
    return (_plain(found[1]), _plain(found[2])) if found else None


def _plain(identifier: str) -> str:
    return identifier[1:-1].replace('""', '"') if identifier.startswith('"') else identifier.lower()
