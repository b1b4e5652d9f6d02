"""Bytes of memory that processes and containers use."""

import contextlib
from typing import Any

import docker
import psutil

from benchmarks.bench import Live
from benchmarks.samples import megabytes


def own(pid: int) -> int:
    """Return the proportional share of one process, or its resident size where the system does not tell that."""
    process = psutil.Process(pid)
    with contextlib.suppress(AttributeError, psutil.AccessDenied):
        return int(process.memory_full_info().pss)
    return int(process.memory_info().rss)


def resident(pid: int) -> int:
    return int(psutil.Process(pid).memory_info().rss)


def daemon_text(live: Live) -> str:
    return f"{megabytes(resident(live.pid))} ({megabytes(own(live.pid))} its own share)"


def of_servers(live: Live) -> int:
    """Return what the daemon's servers use together, with nobody connected but the daemon."""
    servers = live.get("/servers")["servers"]
    if servers[0]["backend"] == "container":
        return sum(_container(live.source.address, server["name"]) for server in servers)
    names = [server["name"] for server in servers]
    return sum(own(process.pid) for process in psutil.process_iter() if _belongs(process, names))


def _belongs(process: psutil.Process, names: list[str]) -> bool:
    with contextlib.suppress(psutil.Error):
        words = process.cmdline()
        postgres = process.name() == "postgres"
        return postgres and any(name in word for word in words for name in names)
    return False


def _container(address: str | None, name: str) -> int:
    """Return what ``docker stats`` shows: without what the kernel only caches of the container's files."""
    with contextlib.closing(docker.DockerClient(base_url=address)) as engine:
        stats: Any = engine.containers.get(name).stats(stream=False)
    memory = stats["memory_stats"]
    kept = memory.get("stats", {})
    return int(memory["usage"] - kept.get("inactive_file", kept.get("total_inactive_file", 0)))
