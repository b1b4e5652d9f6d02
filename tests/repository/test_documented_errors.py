"""docs/errors.md lists every code of the daemon and the client, with its status, and no other."""

from leasedb import LeasedbError as ClientError
from leasedb._errors import BY_CODE
from leasedb_server.api.errors import STATUS
from leasedb_server.domain.errors import LeasedbError
from tests.repository.sources import ROOT, table_rows

ROWS = table_rows((ROOT / "docs" / "errors.md").read_text())
NEVER_SENT = "-"


def family(kind):
    """Return the class and all that inherit from it."""
    return {kind}.union(*(family(child) for child in kind.__subclasses__()))


def test_every_code_is_documented_with_its_status_and_no_other():
    sent = {kind.code: str(status) for kind, status in STATUS.items()}
    # the client's own base class stands for codes that it does not know
    codes = {kind.code for kind in family(LeasedbError) | family(ClientError) - {ClientError}}
    documented = {row[0].strip("`"): row[1] for row in ROWS}
    assert documented == {code: sent.get(code, NEVER_SENT) for code in codes}
    assert len(documented) == len(ROWS), "a code stands twice"


def test_the_client_has_a_class_for_every_code_that_is_sent():
    assert {kind.code for kind in STATUS} <= BY_CODE.keys()


def test_every_error_says_what_to_do():
    assert [row[0] for row in ROWS if not all(row)] == []
