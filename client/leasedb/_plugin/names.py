"""The names of the fixtures, and what a run of pytest is found by. Imported at every start of pytest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from leasedb._plugin.run import Run


def _with_async(*names: str) -> frozenset[str]:
    return frozenset(names) | {f"{name}_async" for name in names}


FRESH: Final = _with_async("pg_lease", "pg_conn", "pg_pool", "pg_engine") | {"pg_env"}  # of pg_lease, or what it means
SESSION: Final = _with_async("pg_session_lease")
ROLLBACK: Final = _with_async("pg_rollback", "pg_conn", "pg_engine")
ALL: Final = FRESH | SESSION | ROLLBACK | _with_async("pg_reset", "pg_truncate") | {"leasedb_client", "pg_template"}

RUN: Final[pytest.StashKey[Run]] = pytest.StashKey()
