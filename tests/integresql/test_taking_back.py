"""Which databases are taken back that nobody gives back."""

from leasedb_server.usecases.attending import SPARED, UNUSED, Unattended, dispensable

LONG = UNUSED + 1


def unattended(**seconds):
    """Return leases by name, of the template that the name begins with."""
    return [Unattended(name, name[0], float(number)) for name, number in seconds.items()]


def test_what_nobody_wants_stays():
    assert dispensable(unattended(a1=1000, a2=1001, b1=1002), wanted=0, kept=2) == {}


def test_each_template_keeps_those_that_were_used_last():
    ends = dispensable(unattended(a1=LONG, a2=LONG + 2, a3=LONG + 1, b1=LONG + 9), wanted=0, kept=2)
    assert set(ends) == {"a2"}


def test_what_was_just_given_out_stays():
    assert dispensable(unattended(a1=UNUSED - 1, a2=0, a3=1, a4=2), wanted=0, kept=1) == {}
    assert dispensable(unattended(a1=SPARED, a2=0), wanted=2, kept=1) == {}


def test_those_who_wait_get_what_was_used_longest_ago():
    ends = dispensable(unattended(a1=2, a2=4, b1=3, b2=SPARED), wanted=2, kept=9)
    assert set(ends) == {"a2", "b1"}


def test_what_goes_for_one_reason_does_not_count_again():
    ends = dispensable(unattended(a1=LONG, a2=LONG + 1, a3=LONG + 2), wanted=1, kept=2)
    assert set(ends) == {"a3"}
