"""A defect ends the process, whatever is left hanging in it: never a daemon that answers and does nothing."""

import subprocess
import sys

from tests.daemons import clean_environment

PROGRAM = """
import asyncio, os
from leasedb_server import cli, logs

async def hang():
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass  # as a library's worker that misses its cancellation

async def work():
    hanging = asyncio.create_task(hang())
    asyncio.get_running_loop().run_in_executor(None, input)
    async with asyncio.TaskGroup() as group:
        group.create_task(fail())

async def fail():
    raise RuntimeError("nobody foresaw this")

logs.set_up("text")
os._exit(cli._exit_code(work))
"""


def test_an_unforeseen_failure_ends_the_process_with_its_traceback():
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        env=clean_environment(),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.wait(30) == 70
        said = process.stderr.read()
    assert "the daemon failed" in said
    assert "nobody foresaw this" in said
