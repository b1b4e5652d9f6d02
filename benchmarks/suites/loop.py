"""``python -m benchmarks.suites.loop``: the tests' bodies without pytest; prints what each took, in seconds."""

import json
import os
from time import perf_counter

from benchmarks.suites import subject
from benchmarks.suites.ways import WAYS


def main() -> None:
    seconds: list[float] = []
    with WAYS[os.environ["SUITE_WAY"]]() as fresh:
        for _ in range(subject.TESTS):
            started = perf_counter()
            with fresh() as connection:
                subject.body(connection)
            seconds.append(perf_counter() - started)
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
