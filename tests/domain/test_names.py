"""Names are built and parsed in one place, and what somebody else named is never taken for ours."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from leasedb_server.domain.names import (
    DAEMON_LENGTH,
    IDENT_LENGTH,
    Kind,
    Name,
    daemon_prefix,
    new_daemon_id,
    new_ident,
    new_password,
)

ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
daemons = st.text(ALPHABET, min_size=DAEMON_LENGTH, max_size=DAEMON_LENGTH)
idents = st.text(ALPHABET, min_size=IDENT_LENGTH, max_size=IDENT_LENGTH)
names = st.builds(Name, daemons, st.sampled_from(Kind), idents)


@given(names)
def test_a_name_is_parsed_into_what_it_was_built_from(name):
    text = str(name)
    assert Name.parse(text) == name
    assert text.startswith(daemon_prefix(name.daemon))
    assert len(text.encode()) <= 63
    assert re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+", text), "container engines refuse it"


@given(names, names)
def test_different_things_have_different_names(one, other):
    assert (str(one) == str(other)) is (one == other)


@given(daemons, daemons)
def test_no_prefix_of_a_daemon_is_the_prefix_of_another(one, other):
    assert daemon_prefix(one).startswith(daemon_prefix(other)) is (one == other)


@given(st.text())
@example("postgres")
@example("leasedb")
@example("leasedb_aaaaaa_d_")
@example("xleasedb_aaaaaa_d_aaaaaaaaaaaaa")
@example("leasedb_aaaaaa_d_aaaaaaaaaaaaa\n")
@example("leasedb_aaaaaa_x_aaaaaaaaaaaaa")
@example("leasedb_AAAAAA_d_aaaaaaaaaaaaa")
@example("leasedb_aaaaa1_d_aaaaaaaaaaaaa")
@example("leasedb_aaaaaaa_d_aaaaaaaaaaaa")
@example("leasedb_leasedb_aaaaaa_d_aaaaaaaaaaaaa")
def test_a_foreign_name_is_nobodys(text):
    assert Name.parse(text) is None


@given(names, st.integers(0, 29), st.characters())
def test_one_wrong_character_makes_a_name_foreign_or_another_one(name, place, character):
    text = str(name)
    changed = text[:place] + character + text[place + 1 :]
    assert (Name.parse(changed) == name) is (changed == text)


@pytest.mark.parametrize("new", [new_ident, new_password])
def test_what_is_new_was_never_there(new):
    assert len({new() for _ in range(5000)}) == 5000


def test_new_things_fit_their_names_and_passwords_have_128_bits():
    for _ in range(200):
        name = Name(new_daemon_id(), Kind.DATABASE, new_ident())
        assert Name.parse(str(name)) == name
        assert re.fullmatch(r"[0-9a-f]{32}", new_password())
