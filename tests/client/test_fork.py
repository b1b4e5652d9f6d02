"""A forked child: the parent's leases are not its own, and neither are the connections."""

import os

from tests.client.processes import python
from tests.client.stand_in import StandIn

PROLOGUE = """
import os, sys, time, threading, leasedb
def end(code=0):
    sys.stdout.flush()
    os._exit(code)
client = leasedb.Client(sys.argv[1])
"""


def in_process(daemon: StandIn, code: str) -> str:
    # the interpreter itself warns of forks while other threads run; that is what is tried here
    return python("import warnings; warnings.simplefilter('ignore')" + PROLOGUE + code, arguments=[daemon.url])


def test_a_child_does_not_release_or_renew_its_parents_lease(stand_in):
    out = in_process(
        stand_in,
        """
with client.lease(ttl=1.5, pid=None) as lease:
    if not os.fork():
        try:
            with lease:
                pass
            lease.release()
            lease.release(sync=True)
            client.close()
        finally:
            end()
    assert os.wait()[1] == 0
    before = lease.expires_at
    done = threading.Event()
    while lease.expires_at == before:
        done.wait(0.02)
    print(client.get(lease.id).state)
print(client.get(lease.id).state)
""",
    )
    assert out.split() == ["active", "released"]
    assert len([seen for seen in stand_in.seen if seen.method == "DELETE"]) == 1


def test_a_child_that_goes_on_renews_nothing_of_its_parents(stand_in):
    out = in_process(
        stand_in,
        """
lease = client.acquire(ttl=1.5, pid=None)
if os.fork():
    os._exit(0)  # the parent is gone, and its heartbeat with it
with leasedb.Client(sys.argv[1]) as other:
    while other.get(lease.id).state == "active":
        threading.Event().wait(0.02)
    print(other.get(lease.id).state)
    end()
""",
    )
    assert out.split() == ["expired"]


def test_a_child_has_its_own_connections_leases_and_heartbeat(stand_in):
    out = in_process(
        stand_in,
        """
parent = client.acquire()
children = []
for _ in range(3):
    child = os.fork()
    if not child:
        try:
            for _ in range(20):
                with client.lease() as lease:
                    assert lease.holder.pid == os.getpid(), lease
                    assert client.get(lease.id).id == lease.id
            with client.lease(ttl=1.5) as lease:
                before = lease.expires_at
                while lease.expires_at == before:
                    threading.Event().wait(0.02)
        except BaseException as error:
            print(repr(error))
            end(1)
        end(0)
    children.append(child)
for _ in range(60):
    with client.lease() as lease:
        assert client.get(lease.id).id == lease.id
assert all(os.waitpid(child, 0)[1] == 0 for child in children)
print(client.get(parent.id).state)
""",
    )
    assert out.split() == ["active"]
    assert len(stand_in.leases) == 1 + 3 * 21 + 60
    assert os.getpid() not in {lease["holder"]["pid"] for lease in stand_in.leases.values()}
