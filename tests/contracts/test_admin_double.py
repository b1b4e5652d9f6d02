"""The fake administrator keeps what the real one promises: one suite, run on the fake and on real Postgres."""

import asyncio

import pytest

from leasedb_server.domain.cloning import Strategy
from leasedb_server.domain.errors import ServerRefusedError, ServerUnreachableError
from leasedb_server.domain.names import Name
from leasedb_server.domain.server import Endpoint
from tests.contracts.administrators import DAEMON, SERVER, database, logins, made, on, opened, template, there

NOWHERE = Endpoint("127.0.0.1", 9, "postgres", "secret")


@pytest.fixture(scope="module", params=["fake", "postgres-18"])
def place(request):
    with there(request.param) as ready:
        yield ready


@pytest.fixture
def sessions(place):
    with logins(place) as log_in:
        yield log_in


async def nothing():
    return
    yield b""


def test_a_server_has_to_be_opened_before_it_is_spoken_to(place):
    async def work():
        admin = place.admin()
        one = database()
        for call in (
            lambda: admin.beat(SERVER),
            lambda: admin.survey(SERVER, DAEMON),
            lambda: admin.strategies(SERVER),
            lambda: admin.create_base(SERVER, template()),
            lambda: admin.create_database(SERVER, template(), one, Strategy.COPY),
            lambda: admin.fence(SERVER, one),
            lambda: admin.drop(SERVER, one.name, one.login),
            lambda: admin.drop_login(SERVER, one.login),
            lambda: admin.reset(SERVER, one, database()),
            lambda: admin.reopen(SERVER, one),
            lambda: admin.seal(SERVER, one, template(), force=True),
            lambda: admin.branch(SERVER, one, template(), Strategy.COPY, force=True),
            lambda: admin.layout(SERVER),
            lambda: anext(admin.export_copy(SERVER, template())),
            lambda: admin.import_copy(SERVER, template(), nothing()),
        ):
            with pytest.raises(ServerUnreachableError):
                await call()
        await admin.close(SERVER)  # not missed

    asyncio.run(work())


def test_a_server_that_does_not_answer_cannot_be_opened(place):
    with pytest.raises(ServerUnreachableError):
        asyncio.run(place.admin().open(SERVER, NOWHERE, 0.1))


def test_a_template_is_proven_and_sealed(place, sessions):
    async def work(admin):
        base = template()
        versions = await admin.create_base(SERVER, base)
        assert (versions.major, versions.vector[0]) == ("18", "0")
        with pytest.raises(ServerRefusedError):
            await admin.create_base(SERVER, base)
        one = database()
        await admin.create_database(SERVER, base, one, Strategy.COPY)
        assert sessions(one, base) is None
        assert base in (await admin.survey(SERVER, DAEMON)).databases

    on(place, work)


def test_a_database_opens_for_its_own_login_only(place, sessions):
    async def work(admin):
        base, one = await made(admin)
        other = database()
        await admin.create_database(SERVER, base, other, Strategy.COPY)
        assert sessions(one) is not None
        assert sessions(one, other.name) is None
        assert sessions(one, base) is None
        assert sessions(one, "postgres") is None

    on(place, work)


def test_a_login_stays_while_it_owns_what_a_reset_took_from_its_database(place, sessions):
    async def work(admin):
        base, one = await made(admin)
        spare = database()
        await admin.create_database(SERVER, base, spare, Strategy.COPY)
        place.write(one, "mess")
        await admin.reset(SERVER, one, spare)
        with pytest.raises(ServerRefusedError):
            await admin.drop(SERVER, one.name, one.login)
        survey = await admin.survey(SERVER, DAEMON)
        assert one.login in survey.logins
        assert one.name not in survey.databases
        await admin.drop(SERVER, spare.name, spare.login)
        await admin.drop_login(SERVER, one.login)
        survey = await admin.survey(SERVER, DAEMON)
        assert not {one.login, spare.login} & survey.logins
        assert sessions(one) is None

    on(place, work)


def test_what_is_there_already_or_has_no_template_is_refused(place):
    async def work(admin):
        base, one = await made(admin)
        with pytest.raises(ServerRefusedError):
            await admin.create_database(SERVER, base, one, Strategy.COPY)
        fresh = database()
        with pytest.raises(ServerRefusedError):
            await admin.create_database(SERVER, template(), fresh, Strategy.COPY)
        survey = await admin.survey(SERVER, DAEMON)
        assert fresh.login in survey.logins  # half made: its login is there
        assert fresh.name not in survey.databases
        await admin.drop(SERVER, fresh.name, fresh.login)
        assert fresh.login not in (await admin.survey(SERVER, DAEMON)).logins

    on(place, work)


def test_the_survey_shows_what_is_of_this_daemon_only(place):
    async def work(admin):
        base, one = await made(admin)
        survey = await admin.survey(SERVER, DAEMON)
        assert {base, one.name} <= survey.databases
        assert one.login in survey.logins
        assert all(Name.parse(name).daemon == DAEMON for name in survey.databases | survey.logins)
        foreign = await admin.survey(SERVER, "zzzzzz")
        assert (foreign.databases, foreign.logins) == (frozenset(), frozenset())

    on(place, work)


def test_a_fence_refuses_the_login_and_ends_its_sessions(place, sessions):
    async def work(admin):
        base, one = await made(admin)
        other = database()
        await admin.create_database(SERVER, base, other, Strategy.COPY)
        session, untouched = sessions(one), sessions(other)
        assert await admin.fence(SERVER, one) == 1
        assert place.ended(session)
        assert sessions(one) is None
        assert await admin.fence(SERVER, one) == 0
        assert sessions(other) is not None
        return untouched

    on(place, work)


def test_a_drop_ends_sessions_and_takes_database_and_login_and_misses_nothing(place, sessions):
    async def work(admin):
        base, one = await made(admin)
        session = sessions(one)
        await admin.drop(SERVER, one.name, one.login)
        assert place.ended(session)
        await admin.drop(SERVER, one.name, one.login)
        await admin.drop(SERVER, base, None)
        survey = await admin.survey(SERVER, DAEMON)
        assert not {base, one.name} & survey.databases
        assert one.login not in survey.logins

    on(place, work)


def test_a_login_is_dropped_only_when_it_owns_nothing(place):
    async def work(admin):
        _, one = await made(admin)
        with pytest.raises(ServerRefusedError):
            await admin.drop_login(SERVER, one.login)
        await admin.drop(SERVER, one.name, None)
        await admin.drop_login(SERVER, one.login)
        await admin.drop_login(SERVER, one.login)
        assert one.login not in (await admin.survey(SERVER, DAEMON)).logins

    on(place, work)


def test_a_fence_without_a_login_is_refused(place):
    async def work(admin):
        with pytest.raises(ServerRefusedError):
            await admin.fence(SERVER, database())

    on(place, work)


def test_what_is_closed_has_to_be_opened_again_and_the_databases_are_still_there(place):
    async def work():
        async with opened(place) as admin:
            _, one = await made(admin)
        with pytest.raises(ServerUnreachableError):
            await admin.beat(SERVER)
        async with opened(place) as again:
            await again.beat(SERVER)
            assert one.name in (await again.survey(SERVER, DAEMON)).databases

    asyncio.run(work())
