import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasedb_server.domain.edition import Editions, key, parted
from leasedb_server.domain.errors import VersionUnavailableError

OFFERED = Editions("18", "pgvector/pgvector:pg18", ("16", "17"), ("acme/postgres@sha256:0a", "acme/gis:3"))
OWN_IMAGE = Editions(None, "acme/postgres:1", ("16",))
LENT = Editions(None, None)
WHEEL = Editions("18", None, installed=("18", "16"))
NOTHING_RUNS: dict[str, str] = {}


@pytest.mark.parametrize(
    ("editions", "postgres", "image", "running", "expected"),
    [
        (OFFERED, None, None, {}, ""),
        (OFFERED, "18", None, {}, ""),
        (OFFERED, "17", None, {}, "17"),
        (OFFERED, None, "pgvector/pgvector:pg18", {}, ""),
        (OFFERED, None, "acme/gis:3", {}, "acme/gis:3"),
        (OFFERED, None, "acme/postgres@sha256:0a", {}, "acme/postgres@sha256:0a"),
        # what an image has is known once it runs
        (OFFERED, "15", "acme/gis:3", {}, "acme/gis:3"),
        (OFFERED, "15", "acme/gis:3", {"acme/gis:3": "15"}, "acme/gis:3"),
        (OFFERED, "18", "pgvector/pgvector:pg18", {}, ""),
        # what runs wins over what is configured
        (OFFERED, "17", None, {"": "17"}, ""),
        (OWN_IMAGE, "16", None, {"": "16"}, ""),
        (OWN_IMAGE, "16", None, {}, "16"),
        (OWN_IMAGE, "15", None, {}, ""),
        (LENT, "14", None, {}, ""),
        (LENT, "14", None, {"": "14"}, ""),
    ],
)
def test_what_a_request_gets(editions, postgres, image, running, expected):
    assert editions.resolve(postgres, image, running=running) == expected


@pytest.mark.parametrize(
    ("editions", "postgres", "image", "running", "said"),
    [
        (
            OFFERED,
            "15",
            None,
            {},
            "Postgres 15 is not served here; versions served: 18, 16, 17; images: pgvector/pgvector:pg18, acme/pos",
        ),
        (OFFERED, "15", None, {}, "out; or stop the daemon ('leasedb stop'), set LEASEDB_VERSIONS=16,17,15, and run"),
        (
            OFFERED,
            None,
            "acme/other",
            {},
            "The image acme/other is not served here; versions served: 18, 16, 17; images: pgvector/pgvector:pg18, ",
        ),
        (OFFERED, None, "acme/other", {}, ", set LEASEDB_IMAGES=acme/postgres@sha256:0a,acme/gis:3,acme/other, and"),
        (OFFERED, "18", None, {"": "17"}, "versions served: 17, 16; images: "),
        (OFFERED, "16", "acme/gis:3", {"acme/gis:3": "17"}, "The image acme/gis:3 is Postgres 17, and Postgres 16 is"),
        (OFFERED, "16", "pgvector/pgvector:pg18", {}, "The image pgvector/pgvector:pg18 is Postgres 18"),
        (OWN_IMAGE, "15", None, {"": "17"}, "versions served: 17, 16; images: acme/postgres:1."),
        (OWN_IMAGE, None, "acme/gis:3", {}, "versions served: the default's, 16; images: acme/postgres:1."),
        (Editions("18", None), "15", None, {}, "versions served: 18. Leave 'postgres' out; or"),
        (Editions("18", None), None, "acme/gis:3", {}, "BACKEND=container and LEASEDB_IMAGES=acme/gis:3, and run"),
        (WHEEL, "16", None, {}, "out; or stop the daemon ('leasedb stop'), set LEASEDB_VERSIONS=16, and run"),
        (WHEEL, "17", None, {}, "'postgres' out; or, where Docker or Podman is, stop the daemon ('leasedb"),
        (WHEEL, "17", None, {}, "=container and LEASEDB_VERSIONS=17, and run again."),
        (LENT, "15", None, {"": "14"}, "versions served: 14. Leave 'postgres' out: the daemon lends the one server"),
        (LENT, None, "acme/gis:3", {}, "Leave 'image' out: the daemon lends the one server"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(editions, postgres, image, running, said):
    with pytest.raises(VersionUnavailableError) as refused:
        editions.resolve(postgres, image, running=running)
    assert said in str(refused.value)


NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", fullmatch=True)
EDITIONS = st.sampled_from(["", "17", "acme/gis:3", "localhost:5000/a/b:c@sha256:0a1b@odd"])


@given(NAMES, EDITIONS)
def test_a_key_tells_what_it_was_made_of(template, edition):
    assert parted(key(template, edition)) == (template, edition)


def test_the_default_edition_has_plain_names():
    assert key("shop", "") == "shop"
    assert key("shop", "17") == "shop@17"
