"""One of several processes of a test suite, as the README of integresql-client-python has it.

Each of them finalizes the template, whichever of them builds it: that is how this client's `with` works.
"""

import sys

import psycopg
from integresql_client_python import IntegreSQL, errors


def main(directory: str) -> None:
    with IntegreSQL(directory) as template:
        with template.initialize() as info:
            if info:
                sys.stdout.write("built\n")
                build(str(info))
        database = template.get_database()
        names = set()
        for _ in range(3):
            with database as info:
                names.add(info.name)
                use(str(info))
                database.mark_unmodified(info)
        assert len(names) == 3
        info = database.open()
        assert info.tpl_hash == str(template.integresql.tpl_hash)
        assert info.name not in names
        template.integresql.tpl_hash = [directory, directory]
        for call in (template.finalize, template.discard, database.open, lambda: database.mark_unmodified(1)):
            try:
                call()
            except errors.TemplateNotFound:
                continue
            raise AssertionError(call)


def build(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE person (name text)")
        connection.execute("SELECT pg_sleep(2)")
        connection.execute("INSERT INTO person VALUES ('foo')")


def use(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        assert connection.execute("SELECT name FROM person").fetchall() == [("foo",)]
        connection.execute("INSERT INTO person VALUES ('bar')")


if __name__ == "__main__":
    main(sys.argv[1])
