"""``python -m benchmarks [--quick] [--write-readme] [--data DIRECTORY]``."""

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import docker
from docker.errors import DockerException, ImageNotFound

from benchmarks import machine, report
from benchmarks.machine import BenchmarkError
from benchmarks.measuring import FULL, QUICK, Effort, Figures, measure, start_to_lease
from benchmarks.running import Site, Source, daemon, first_lease, keep_alive, site, yardstick
from benchmarks.samples import Samples

IMAGE_VARIABLE = "LEASEDB_BENCH_IMAGE"
IMAGES = ("leasedb-test/pgvector:pg17", "pgvector/pgvector:pg18")
DOCKER_SOCKET = "unix:///var/run/docker.sock"
EMBEDDED = Source("embedded", ("--backend", "embedded"), {})


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few samples, in less than a minute")
    parser.add_argument("--write-readme", action="store_true", help="put the table into the README")
    parser.add_argument("--data", type=Path, metavar="DIRECTORY", help="where data lies while it is measured")
    chosen = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        text = run(machine.data_place(chosen.data), QUICK if chosen.quick else FULL)
        print(text)
        if chosen.write_readme:
            report.write(text)
    except BenchmarkError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def run(parent: Path, effort: Effort) -> str:
    """Measure everything and return the table; nothing is left behind, whatever happens."""
    about, began = machine.description(), time.monotonic()
    container, data, why_not = container_source()
    with site(parent) as place:
        if container and (why_not := _failure(place, container)):
            container = None
        sources = [EMBEDDED, *([container] if container else [])]
        starts = _starts(place, sources, effort)
        figures = {source.title: _figures(place, source, effort) for source in sources}
    places = [f"embedded data and all state files on {machine.file_system(parent)}"]
    if container:
        places.append(f"{container.title}'s volumes on {data}")
    samples = ", ".join(str(len(each.post)) for each in figures.values())
    how = (
        f"Warm: the pool is full and nothing else is under way; the two kinds of `POST` took turns ({samples} times). "
        f"The client is httpx with a kept connection, in a process of its own. Measured in {_minutes(began)}."
    )
    notes = [f"{about}.", f"Data: {'; '.join(places)}.", how]
    return report.table(notes, figures, starts, {} if container else {"Docker": why_not})


def container_source() -> tuple[Source | None, str, str]:
    """Return Docker as a source with what its volumes lie on, or why there is none."""
    address = os.environ.get("DOCKER_HOST", DOCKER_SOCKET)
    wanted = os.environ.get(IMAGE_VARIABLE)
    images = (wanted,) if wanted else IMAGES
    try:
        with contextlib.closing(docker.from_env()) as engine:
            version = engine.version()["Version"]
            for image in images:
                with contextlib.suppress(ImageNotFound):
                    engine.images.get(image)
                    flags = ("--backend", "container", "--image", image)
                    # elsewhere than on Linux the engine has a virtual machine of its own
                    root = Path(engine.info()["DockerRootDir"])
                    data = machine.file_system(root) if root.is_dir() else "a file system that cannot be seen from here"
                    return Source(f"Docker {version}", flags, {"DOCKER_HOST": address}), data, ""
    except DockerException as error:
        return None, "", f"no engine answers: {error}"
    return None, "", f"the engine has none of the images {', '.join(images)}; pull one, or name one in {IMAGE_VARIABLE}"


def _failure(place: Site, source: Source) -> str:
    """Try one start, and return the last thing said about it when it fails, as on a broken engine; else nothing."""
    _progress(f"whether {source.title} works")
    try:
        start_to_lease(place, source, place.new_directory())
    except BenchmarkError as error:
        return f"the daemon did not start on it: {str(error).splitlines()[-1]}"
    return ""


def _starts(place: Site, sources: Sequence[Source], effort: Effort) -> dict[str, dict[str, Samples]]:
    """Measure starts in turns: one of each kind, again and again."""
    _progress("starts of the daemon")
    fresh = {source.title: Samples() for source in sources}
    cached = Samples()
    kept = place.new_directory()
    # not counted: it leaves the prepared data directory behind, and the bytecode of all modules
    start_to_lease(place, EMBEDDED, kept)
    for _ in range(effort.starts):
        for source in sources:
            fresh[source.title].seconds.append(start_to_lease(place, source, place.new_directory()))
        cached.seconds.append(start_to_lease(place, EMBEDDED, kept))
    return {report.START: fresh, report.START_CACHED: {EMBEDDED.title: cached}}


def _figures(place: Site, source: Source, effort: Effort) -> Figures:
    _progress(f"requests: {source.title}")
    with yardstick(place) as bare, daemon(place, source, place.new_directory()) as running, keep_alive() as client:
        bare.answered(client, "/rows")
        lease = first_lease(running)
        client.delete(f"{running.url}/leases/{lease['id']}").raise_for_status()
        return measure(running, bare, effort)


def _progress(text: str) -> None:
    print(f"measuring {text} ...", file=sys.stderr, flush=True)


def _minutes(began: float) -> str:
    minutes, seconds = divmod(round(time.monotonic() - began), 60)
    return f"{minutes}:{seconds:02d} minutes"


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
