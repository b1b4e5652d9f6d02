"""Templates, branches and resets: one suite for the fake, for a server of ours, and for one that is only lent."""

from dataclasses import replace

import pytest

from leasedb_server.domain.cloning import Strategy
from leasedb_server.domain.errors import ServerRefusedError, SessionsOpenError
from tests.contracts.administrators import DAEMON, SERVER, cloned, database, logins, made, on, template, there


@pytest.fixture(scope="module", params=["fake", "postgres-18", "postgres-16", "lent-18", "lent-16"])
def place(request):
    with there(request.param) as ready:
        yield ready


@pytest.fixture
def sessions(place):
    with logins(place) as log_in:
        yield log_in


async def surveyed(admin):
    return await admin.survey(SERVER, DAEMON)


def test_a_reset_gives_the_content_of_the_spare_under_the_same_name(place, sessions):
    async def work(admin):
        base, one = await made(admin)
        spare = await cloned(admin, base)
        place.write(one, "used")
        session = sessions(one)
        assert await admin.reset(SERVER, one, spare) == 1
        assert place.ended(session)
        assert place.read(one) == ""
        place.write(one, "again")
        assert sessions(spare) is None
        assert {one.name, spare.name, one.login, spare.login} <= (
            found := await surveyed(admin)
        ).databases | found.logins
        assert spare.name in found.closed
        assert one.name not in found.closed
        assert await admin.reset(SERVER, one, spare) == 0  # done already
        assert place.read(one) == "again"
        await admin.drop(SERVER, spare.name, spare.login)
        another = await cloned(admin, base)
        assert await admin.reset(SERVER, one, another) == 0
        assert place.read(one) == ""

    on(place, work)


def test_a_reset_for_which_there_is_no_spare_changes_nothing(place):
    async def work(admin):
        _, one = await made(admin)
        place.write(one, "mine")
        with pytest.raises(ServerRefusedError):
            await admin.reset(SERVER, one, database())
        assert place.read(one) == "mine"

    on(place, work)


def test_what_was_closed_shows_in_the_survey_and_is_opened_again(place, sessions):
    async def work(admin):
        base, one = await made(admin)
        assert base in (await surveyed(admin)).closed
        await admin.fence(SERVER, one)
        assert one.name in (await surveyed(admin)).closed
        for _ in range(2):
            await admin.reopen(SERVER, one)
            assert one.name not in (await surveyed(admin)).closed
            assert sessions(one) is not None
        with pytest.raises(ServerRefusedError):
            await admin.reopen(SERVER, database())

    on(place, work)


def test_the_survey_looks_for_names_that_callers_chose(place):
    async def work(admin):
        base, one = await made(admin)
        survey = await admin.survey(SERVER, "zzzzzz", frozenset({one.name, "not_there"}))
        assert (survey.databases, survey.logins, survey.closed) == ({one.name}, {one.login}, frozenset())
        survey = await admin.survey(SERVER, "zzzzzz", frozenset({base}))
        assert (survey.databases, survey.closed) == ({base}, {base})

    on(place, work)


def test_a_sealed_database_is_a_template_whose_clones_own_its_content(place, sessions):
    async def work(admin):
        _, one = await made(admin)
        place.write(one, "seed ")
        sealed = template()
        size = await admin.seal(SERVER, one, sealed, force=False)
        assert size > 1_000_000
        survey = await surveyed(admin)
        assert sealed in survey.databases & survey.closed
        assert not {one.name, one.login} & (survey.databases | survey.logins)
        assert await admin.seal(SERVER, one, sealed, force=False) == size  # done already
        for _ in range(2):
            clone = await cloned(admin, sealed)
            place.write(clone, "and more")
            assert place.read(clone) == "seed and more"
        assert sessions(clone, sealed) is None
        await admin.drop(SERVER, sealed, None)
        assert sealed not in (await surveyed(admin)).databases

    on(place, work)


def test_a_template_is_built_upon_a_template(place):
    async def work(admin):
        _, one = await made(admin)
        place.write(one, "first ")
        await admin.seal(SERVER, one, parent := template(), force=False)
        builder = await cloned(admin, parent)
        place.write(builder, "second")
        await admin.seal(SERVER, builder, child := template(), force=False)
        assert place.read(await cloned(admin, child)) == "first second"
        assert place.read(await cloned(admin, parent)) == "first "

    on(place, work)


def test_sessions_keep_a_database_from_being_sealed_unless_they_may_be_ended(place, sessions):
    async def work(admin):
        _, one = await made(admin)
        session = sessions(one)
        with pytest.raises(SessionsOpenError) as refused:
            await admin.seal(SERVER, one, template(), force=False)
        assert len(refused.value.sessions) == 1
        assert refused.value.sessions[0].pid > 0
        assert sessions(one) is not None
        assert one.name not in (await surveyed(admin)).closed
        assert await admin.seal(SERVER, one, sealed := template(), force=True)
        assert place.ended(session)
        assert sealed in (await surveyed(admin)).databases

    on(place, work)


def test_a_branch_has_what_the_database_holds_now_and_leaves_it_as_it_is(place, sessions):
    async def work(admin):
        base, one = await made(admin)
        place.write(one, "until now")
        branch = template()
        size = await admin.branch(SERVER, one, branch, Strategy.COPY, force=False)
        assert size > 1_000_000
        place.write(one, ", and later")
        assert await admin.branch(SERVER, one, branch, Strategy.COPY, force=False) == size  # done already
        survey = await surveyed(admin)
        assert branch in survey.databases & survey.closed
        assert one.name not in survey.closed
        clone, spare = await cloned(admin, branch), await cloned(admin, branch)
        place.write(clone, "!")
        assert place.read(clone) == "until now!"
        assert place.read(one) == "until now, and later"
        assert await admin.reset(SERVER, one, spare) == 0
        assert place.read(one) == "until now"
        await admin.drop(SERVER, spare.name, spare.login)
        assert await admin.fence(SERVER, one) == 0
        await admin.drop(SERVER, one.name, one.login)
        assert one.login not in (await surveyed(admin)).logins
        assert base in (await surveyed(admin)).databases

    on(place, work)


def test_sessions_keep_a_database_from_being_branched_unless_they_may_be_ended(place, sessions):
    async def work(admin):
        _, one = await made(admin)
        place.write(one, "mine")
        session, branch = sessions(one), template()
        with pytest.raises(SessionsOpenError):
            await admin.branch(SERVER, one, branch, Strategy.COPY, force=False)
        survey = await surveyed(admin)
        assert branch not in survey.databases
        assert one.name not in survey.closed
        assert await admin.branch(SERVER, one, branch, Strategy.COPY, force=True)
        assert place.ended(session)
        assert sessions(one) is not None
        assert place.read(await cloned(admin, branch)) == "mine"

    on(place, work)


def test_what_was_half_made_under_the_templates_name_is_made_anew(place):
    async def work(admin):
        base, one = await made(admin)
        place.write(one, "whole")
        half = await cloned(admin, base)
        await admin.branch(SERVER, one, half.name, Strategy.COPY, force=False)
        assert place.read(await cloned(admin, half.name)) == "whole"

    on(place, work)


def test_the_files_of_a_template_make_the_same_template_on_another_server_of_the_same_layout(place, request):
    kind = request.node.callspec.params["place"]

    async def send(admin):
        _, one = await made(admin)
        place.write(one, "carried over")
        await admin.seal(SERVER, one, sealed := template(), force=False)
        if not await admin.layout(SERVER):
            assert kind.startswith("lent")
            return "", []
        return await admin.layout(SERVER), [part async for part in admin.export_copy(SERVER, sealed)]

    layout, parts = on(place, send)
    if not layout:
        return
    with there(kind) as other:

        async def receive(admin):
            assert await admin.layout(SERVER) == layout
            base, half = await made(admin)
            for name in (template(), half.name):
                size = await admin.import_copy(SERVER, name, each(parts))
                assert size > 1_000_000
                assert await admin.import_copy(SERVER, name, each([])) == size  # done already
                clone = await cloned(admin, name)
                other.write(clone, "!")
                assert other.read(clone) == "carried over!"
                survey = await surveyed(admin)
                assert {name, base} <= survey.databases & survey.closed
            for broken in ([], parts[:-1]):
                with pytest.raises(ServerRefusedError):
                    await admin.import_copy(SERVER, name := template(), each(broken))
                assert name not in (await surveyed(admin)).databases

        on(other, receive)


async def each(parts):
    for part in parts:
        yield part


def test_what_is_no_template_is_not_exported(place):
    async def work(admin):
        with pytest.raises(ServerRefusedError):
            [part async for part in admin.export_copy(SERVER, template())]

    on(place, work)


def test_a_text_is_run_as_the_databases_login(place):
    async def work(admin):
        _, one = await made(admin)
        told = []
        assert await admin.run_sql(SERVER, one, each([place.statements("by text")]), told.append) == ()
        assert told[0].startswith("statement 1, line 1")
        assert place.read(one) == "by text"

    on(place, work)


@pytest.mark.parametrize("kind", ["fake", "postgres-18"])
def test_a_server_is_leased_as_a_whole_under_names_that_the_caller_chose(kind):
    chosen = replace(database(), name="shop", login="shopper")

    async def work(admin):
        base, _ = await made(admin)
        await admin.open_up(SERVER)
        await admin.create_exclusive(SERVER, base, chosen, Strategy.COPY)
        with pytest.raises(ServerRefusedError):
            await admin.create_exclusive(SERVER, base, replace(chosen, name="elsewhere"), Strategy.COPY)
        place.write(chosen, "used")
        held.append(session := place.log_in(chosen))
        survey = await admin.survey(SERVER, DAEMON, frozenset({"shop", "shopper"}))
        assert ("shop" in survey.databases, "shopper" in survey.logins, "shop" in survey.closed) == (True, True, False)
        for ended in (1, 0):
            assert await admin.reset_exclusive(SERVER, base, chosen, frozenset({base})) == ended
            assert place.ended(session)
            assert place.read(chosen) == ""
            survey = await admin.survey(SERVER, DAEMON, frozenset({"shop", "shopper"}))
            assert survey.databases == {base, "shop"}
            assert survey.logins == {"shopper"}

    held = []
    with there(kind) as place:
        on(place, work)
        for session in held:
            if kind != "fake":
                session.close()
