"""The family of errors, rebuilt by code."""

import pickle

import pytest

import leasedb
from leasedb._errors import BY_CODE, from_problem
from tests.client.stand_in import STATUS

CLIENT_ONLY = {
    "unknown",
    "invalid-address",
    "daemon-unreachable",
    "daemon-start-failed",
    "incompatible-daemon",
    "unexpected-answer",
    "client-closed",
    "file-unreadable",
}


def test_every_code_of_the_contract_has_a_class():
    assert set(BY_CODE) == set(STATUS)


def test_every_class_is_exported():
    exported = {getattr(leasedb, name) for name in leasedb.__all__ if name.endswith("Error")}
    assert {kind.code for kind in exported} == set(BY_CODE) | CLIENT_ONLY
    assert set(BY_CODE.values()) < exported


@pytest.mark.parametrize("code", sorted(STATUS.keys() - {"idempotency-in-progress"}))  # that one is waited for
def test_the_daemons_answer_becomes_its_class(connect, stand_in, code):
    more = {"position": 3} if code == "pool-exhausted" else {}
    stand_in.fail(code, 2, headers={"Retry-After": "7"}, **more)  # the second when asked how the lease ended
    with pytest.raises(leasedb.LeasedbError) as caught:
        connect(stand_in.url).renew("some-lease")
    error = caught.value
    assert type(error) is BY_CODE[code]
    assert (error.code, error.status) == (code, STATUS[code])
    assert error.detail == f"Detail of {code}."
    assert str(error) == f"Detail of {code}. Do this."
    assert error.title == code.replace("-", " ").capitalize()


def test_an_unknown_code_is_the_base_class():
    error = from_problem(418, {"code": "teapot", "detail": "Short and stout.", "hint": "Pour.", "news": [1]})
    assert type(error) is leasedb.LeasedbError
    assert (error.code, error.status, str(error)) == ("teapot", 418, "Short and stout. Pour.")


def test_a_problem_that_says_little():
    assert str(from_problem(500, {"code": "internal-error"})) == "The daemon answered HTTP 500 (internal-error)."


def test_pool_exhausted_tells_when_to_come_back():
    error = from_problem(503, {"code": "pool-exhausted", "detail": "d", "position": 4}, "12")
    assert isinstance(error, leasedb.PoolExhaustedError)
    assert (error.position, error.retry_after) == (4, 12.0)
    vague = from_problem(503, {"code": "pool-exhausted", "position": None}, "Fri, 20 Nov 2026 13:00:00 GMT")
    assert isinstance(vague, leasedb.PoolExhaustedError)
    assert (vague.position, vague.retry_after) == (None, None)


def test_refused_fields():
    problem = {"code": "invalid-request", "detail": "d", "errors": [{"field": "ttl", "message": "too big"}, "?"]}
    assert from_problem(422, problem).errors == (("ttl", "too big"),)
    assert from_problem(422, problem | {"errors": "?"}).errors == ()


def test_lost_is_a_kind_of_ended():
    assert issubclass(leasedb.LeaseLostError, leasedb.LeaseEndedError)


def test_errors_cross_processes():
    error = from_problem(503, {"code": "pool-exhausted", "detail": "d", "hint": "h", "position": 4}, "12")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert vars(again) == vars(error)
