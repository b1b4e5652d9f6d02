"""The processes of this machine, told by when they started."""

import os
import subprocess
import sys

import psutil
import pytest

from leasedb_server.processes import LocalProcesses
from tests.waiting import until


def test_a_process_is_told_by_when_it_started():
    processes = LocalProcesses()
    started_at = processes.started_at(os.getpid())
    assert started_at == psutil.Process().create_time()
    assert processes.started_at(os.getpid()) == started_at


def test_an_ended_process_is_not_alive_even_before_its_parent_notices():
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        until(lambda: psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE, what="it ends")
        assert LocalProcesses().started_at(child.pid) is None
    assert LocalProcesses().started_at(child.pid) is None


@pytest.mark.parametrize("pid", [2**31, 10**30, 0, -1])
def test_numbers_that_no_process_has(pid):
    assert LocalProcesses().started_at(pid) is None
