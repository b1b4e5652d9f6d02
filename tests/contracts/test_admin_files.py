"""A template's files on another server: all sorts of content works there, and Postgres finds nothing wrong with it."""

import asyncio
import contextlib
import struct

import pytest

from leasedb_server.backends.container import ContainerBackend, ContainerSettings
from leasedb_server.domain.names import Kind, Name, new_ident
from tests.contracts import engines
from tests.contracts.administrators import DAEMON, SERVER, OnPostgres, cloned, database, made, on, template, there

CONTENT = """
CREATE SCHEMA s;
CREATE TYPE s.mood AS ENUM ('sad', 'ok', 'happy');
CREATE DOMAIN s.positive AS int CHECK (VALUE > 0);
CREATE FUNCTION s.twice(i int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT i * 2';
CREATE FUNCTION s.touch() RETURNS trigger LANGUAGE plpgsql AS
 $$ BEGIN NEW.touched := coalesce(NEW.touched, 0) + 1; RETURN NEW; END $$;
CREATE TABLE s.t (id serial PRIMARY KEY, other bigint GENERATED ALWAYS AS IDENTITY, m s.mood DEFAULT 'ok',
 p s.positive, body text, touched int, gone text, doc jsonb, arr int[]);
ALTER TABLE s.t DROP COLUMN gone;
CREATE TRIGGER touched BEFORE INSERT OR UPDATE ON s.t FOR EACH ROW EXECUTE FUNCTION s.touch();
INSERT INTO s.t (p, body, doc, arr) SELECT i, repeat(md5(i::text), 1 + (i % 7) * 60),
 jsonb_build_object('k', i), ARRAY[i, i + 1] FROM generate_series(1, 3000) i;
UPDATE s.t SET m = 'happy' WHERE id % 3 = 0;
DELETE FROM s.t WHERE id % 5 = 0;
CREATE INDEX ON s.t (s.twice(id));
CREATE INDEX ON s.t USING hash (body);
CREATE INDEX ON s.t USING gin (doc);
CREATE INDEX ON s.t USING gin (arr);
CREATE INDEX ON s.t USING brin (id);
CREATE UNIQUE INDEX ON s.t (other) WHERE id > 10;
CREATE TABLE s.geo (p point, r int4range, x text, EXCLUDE USING gist (r WITH &&));
INSERT INTO s.geo SELECT point(i, i % 17), int4range(i * 10, i * 10 + 5), i::text FROM generate_series(1, 4000) i;
CREATE INDEX ON s.geo USING gist (p);
CREATE INDEX ON s.geo USING spgist (p);
CREATE INDEX ON s.geo USING spgist (x);
DELETE FROM s.geo WHERE (p[0])::int % 2 = 0;
INSERT INTO s.geo SELECT point(i, i % 19), int4range(i * 10, i * 10 + 5), i::text FROM generate_series(5000, 9000) i;
CREATE TABLE parts (id int PRIMARY KEY, x text) PARTITION BY RANGE (id);
CREATE TABLE part_a PARTITION OF parts FOR VALUES FROM (0) TO (100);
CREATE TABLE part_b PARTITION OF parts FOR VALUES FROM (100) TO (1000);
INSERT INTO parts SELECT i, 'x' FROM generate_series(0, 998) i;
CREATE TABLE child (id int REFERENCES s.t, part int REFERENCES parts);
INSERT INTO child VALUES (1, 1), (2, 200);
CREATE MATERIALIZED VIEW counted AS SELECT m, count(*) AS n FROM s.t GROUP BY m;
CREATE UNIQUE INDEX ON counted (m);
CREATE VIEW s.v AS SELECT id, m FROM s.t;
CREATE TABLE near (id int, e vector(8), h halfvec(8));
INSERT INTO near SELECT i, ARRAY(SELECT sin(i * 8 + j) FROM generate_series(1, 8) j)::vector,
 ARRAY(SELECT cos(i * 8 + j) FROM generate_series(1, 8) j)::halfvec FROM generate_series(1, 2000) i;
CREATE INDEX ON near USING hnsw (e vector_l2_ops);
CREATE INDEX ON near USING ivfflat (h halfvec_l2_ops) WITH (lists = 10);
CREATE TABLE dropped AS SELECT generate_series(1, 10000) i;
DROP TABLE dropped;
CREATE UNLOGGED TABLE not_logged AS SELECT generate_series(1, 100) i;
CREATE TABLE locked AS SELECT i, 0 AS x FROM generate_series(1, 50) i;
ALTER TABLE locked ADD PRIMARY KEY (i);
CREATE SEQUENCE s.seq START 42;
SELECT nextval('s.seq');
CREATE TABLE guarded (x int);
INSERT INTO guarded VALUES (1), (-1);
ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
ALTER TABLE guarded FORCE ROW LEVEL SECURITY;
CREATE POLICY mine ON guarded TO CURRENT_USER USING (x > 0);
COMMENT ON TABLE s.t IS 'a comment';
ALTER TABLE s.t ALTER body SET (n_distinct = 7);
CREATE STATISTICS s.st ON id, p FROM s.t;
CREATE TEXT SEARCH CONFIGURATION s.ts (COPY = english);
CREATE AGGREGATE s.total (int) (SFUNC = int4pl, STYPE = int, INITCOND = '0');
GRANT SELECT ON s.t TO PUBLIC;
SELECT lo_from_bytea(4711, decode(repeat('abcd', 5000), 'hex'));
"""
SEEN = (
    "SELECT count(*), sum(id), sum(length(body)), sum(touched), sum(other), min(m), max(m) FROM s.t",
    "SELECT count(*), sum(p[0]), max(upper(r)) FROM s.geo",
    "SELECT count(*) FROM s.geo WHERE p <@ box(point(0, 0), point(300, 10))",
    "SELECT count(*) FROM s.geo WHERE x LIKE '5%'",
    "SELECT count(*), sum(id) FROM parts",
    "SELECT * FROM child ORDER BY id",
    "SELECT * FROM counted ORDER BY m",
    "SELECT count(*) FROM s.v",
    "SELECT array_agg(id) FROM (SELECT id FROM near ORDER BY e <-> '[1,0,1,0,1,0,1,0]' LIMIT 10) AS nearest",
    "SELECT array_agg(id) FROM (SELECT id FROM near ORDER BY h <-> '[1,0,1,0,1,0,1,0]' LIMIT 10) AS nearest",
    "SELECT count(*) FROM not_logged",
    "SELECT last_value, is_called FROM s.seq",
    "SELECT array_agg(x) FROM guarded",
    "SELECT obj_description('s.t'::regclass)",
    "SELECT md5(lo_get(4711))",
    "SELECT s.total(i) FROM generate_series(1, 4) i",
    """SELECT count(*) FROM s.t WHERE doc @> '{"k": 77}'""",
    "SELECT count(*) FROM s.t WHERE arr @> ARRAY[77]",
    "SELECT count(*), sum(x) FROM locked",
    "SELECT attname FROM pg_attribute WHERE attoptions @> ARRAY['n_distinct=7']",
    "SELECT relname, reltuples FROM pg_class WHERE relkind IN ('r', 'p', 'm') AND oid > 16384 ORDER BY relname",
)
WORK = """
INSERT INTO s.t (p, body) SELECT i, 'new' FROM generate_series(1, 500) i;
UPDATE s.t SET body = body || 'z' WHERE id % 7 = 0;
DELETE FROM s.t WHERE id % 11 = 0;
INSERT INTO s.geo SELECT point(i, i % 19), int4range(i * 10, i * 10 + 5), i::text FROM generate_series(10000, 14000) i;
INSERT INTO near SELECT 5000 + i, '[1,2,3,4,5,6,7,8]', '[1,2,3,4,5,6,7,8]' FROM generate_series(1, 100) i;
INSERT INTO parts VALUES (999, 'y');
REFRESH MATERIALIZED VIEW counted;
SELECT nextval('s.seq');
UPDATE not_logged SET i = i + 1;
SELECT lo_put(4711, 3, 'xyz');
CREATE TABLE s.t2 (LIKE s.t INCLUDING ALL);
ALTER TABLE s.t ADD added int DEFAULT 5, ALTER p TYPE bigint;
ALTER TABLE parts ADD added text;
ALTER TYPE s.mood ADD VALUE 'angry';
"""
CARE = (
    "VACUUM",
    "VACUUM (FREEZE, ANALYZE, DISABLE_PAGE_SKIPPING)",
    "REINDEX SCHEMA s",
    "VACUUM FULL",
    "REINDEX SYSTEM",
    "CHECKPOINT",
)
WRONG = ("ERROR", "PANIC", "WARNING")


class InContainer(OnPostgres):
    """A server in a container."""

    def __init__(self, image):
        self.backend = ContainerBackend(
            ContainerSettings(daemon=DAEMON, image=image, engine=engines.engine("docker").address)
        )
        self.name = str(Name(DAEMON, Kind.SERVER, new_ident()))
        self.runner = asyncio.Runner()
        self.runner.run(self.backend.check(lambda _line: None))
        self.owner = self.endpoint = self.runner.run(self.backend.start(self.name))

    def log(self):
        return self.runner.run(self.backend.logs(self.name, 5000))

    def end(self):
        self.runner.run(self.backend.stop(self.name))
        self.runner.run(self.backend.close())
        self.runner.close()


@contextlib.contextmanager
def server(kind):
    if not kind.startswith("docker"):
        with there(kind) as place:
            yield place
        return
    if not engines.engine("docker").has(image := f"leasedb-test/pgvector:pg{kind.partition('-')[2]}"):
        engines.missing(f"there is no image {image}: run tests/image/build.sh")
    place = InContainer(image)
    try:
        yield place
    finally:
        place.end()


@pytest.fixture(scope="module", params=["postgres-18", "postgres-16", "docker-17", "docker-18"])
def pair(request):
    """Two servers of one kind, of which the first has counted on."""
    with server(request.param) as one, server(request.param) as other:
        with one.administrator() as connection:
            for _ in range(300):
                connection.execute("CREATE TEMPORARY TABLE IF NOT EXISTS counting (i int)")
                connection.execute("INSERT INTO counting VALUES (1)")
            connection.execute("SELECT pg_switch_wal()")
        yield one, other


def filled(place):
    """Return a database with content of all sorts."""
    _, one = on(place, made)
    with place.inside(one) as connection, place.inside(one) as other:
        connection.execute(CONTENT)
        connection.execute("BEGIN; INSERT INTO locked VALUES (100, 7); PREPARE TRANSACTION 'two phases'")
        connection.execute("COMMIT PREPARED 'two phases'")
        for session in (connection, other):  # rows that several have locked
            session.execute("BEGIN; SELECT FROM locked WHERE i < 30 FOR KEY SHARE")
        connection.execute("UPDATE locked SET x = 1 WHERE i < 10")
        for session in (connection, other):
            session.execute("COMMIT")
    return one


def seen(place, one):
    with place.inside(one) as connection:
        return {query: connection.execute(query).fetchall() for query in SEEN}


async def parts_of(admin, name):
    return [part async for part in admin.export_copy(SERVER, name)]


async def each(parts):
    for part in parts:
        yield part


def unfrozen(pages, size=8192):
    """Count rows that one would have to look up transactions for (src/include/access/htup_details.h)."""
    found = 0
    for start in range(0, len(pages), size):
        page = pages[start : start + size]
        lower, upper = struct.unpack_from("<HH", page, 12)
        for at in range(24, lower if upper else 0, 4):
            item = struct.unpack_from("<I", page, at)[0]
            if item >> 15 & 3 != 1:  # there is no row
                continue
            row = item & 0x7FFF
            inserted, deleted = struct.unpack_from("<II", page, row)
            flags = struct.unpack_from("<H", page, row + 20)[0]
            frozen = flags & 0x300 == 0x300 or inserted in {1, 2}
            found += not frozen or not (flags & 0x800 or deleted == 0)
    return found


def unfrozen_in(place, name):
    with place.within(name) as inside:
        inside.execute("CHECKPOINT")
        found = {}
        for relation, path in inside.execute(
            "SELECT oid::regclass::text, pg_relation_filepath(oid) FROM pg_class"
            " WHERE relkind IN ('r', 'm', 't', 'S') AND NOT relisshared"
        ).fetchall():
            pages = inside.execute("SELECT pg_read_binary_file(%s)", [path], binary=True).fetchone()[0]
            if count := unfrozen(pages):
                found[relation] = count
        return found


def amcheck(place, name):
    """Have Postgres's own checks look at every table and index, where it has them, and return what they find."""
    found = []
    with place.administrator(name) as inside:
        if not inside.execute("SELECT FROM pg_available_extensions WHERE name = 'amcheck'").fetchall():
            return found  # the wheel has no such modules
        inside.execute("CREATE EXTENSION IF NOT EXISTS amcheck")
        for (table,) in inside.execute(
            "SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 'm', 't') AND NOT relisshared"
        ).fetchall():
            found += inside.execute(
                "SELECT %s, h FROM verify_heapam(%s, check_toast => true) h", [table] * 2
            ).fetchall()
        for (index,) in inside.execute(
            "SELECT i.oid::regclass::text FROM pg_class i JOIN pg_am a ON a.oid = i.relam"
            " WHERE i.relkind = 'i' AND NOT i.relisshared AND a.amname = 'btree'"
        ).fetchall():
            inside.execute("SELECT bt_index_parent_check(%s::regclass, true, true)", [index])
        return found


def test_a_template_with_content_of_all_sorts_works_on_another_server(pair):
    one, other = pair
    base = filled(one)
    sealed = template()
    on(one, lambda admin: admin.seal(SERVER, base, sealed, force=False))
    assert unfrozen_in(one, sealed) == {}
    expected = seen(one, on(one, lambda admin: cloned(admin, sealed)))
    parts = on(one, lambda admin: parts_of(admin, sealed))
    on(other, made)
    since = len(other.log().splitlines())
    arrived = template()
    size = on(other, lambda admin: admin.import_copy(SERVER, arrived, each(parts)))
    assert size == pytest.approx(sum(map(len, parts)), rel=0.05)
    assert unfrozen_in(other, arrived) == {}
    for strategy in on(other, lambda admin: admin.strategies(SERVER)):
        clone = database()
        on(other, lambda admin, s=strategy, c=clone: admin.create_database(SERVER, arrived, c, s))
        assert seen(other, clone) == expected
        assert amcheck(other, clone.name) == []
        with other.inside(clone) as connection:
            connection.execute(WORK)
        with other.administrator(clone.name) as connection:
            for statement in CARE:
                connection.execute(statement)
        assert amcheck(other, clone.name) == []
        with other.inside(clone) as connection:
            connection.execute("DROP SCHEMA s CASCADE; DROP TABLE near, child, parts, guarded; SELECT lo_unlink(4711)")
    with other.within(arrived) as inside:
        for statement in CARE:
            inside.execute(statement)
    said = other.log().splitlines()[since:]
    assert [line for line in said if any(f" {word}: " in line for word in WRONG)] == []
