"""The key of this machine's own operator: the one in its file, and no other."""

from pathlib import Path

from sqlalchemy import Engine

from api.keys import ApiKeys, ensure_local, key_rows, revoke_keys


def test_a_revoked_local_key_is_followed_by_another(database: Engine, tmp_path: Path) -> None:
    path = tmp_path / "keys" / "local.key"
    ensure_local(database, path)
    first = path.read_text().strip()
    (row,) = key_rows(database, first)
    assert row.role == "operator" and row.person is None
    ensure_local(database, path)
    assert path.read_text().strip() == first
    revoke_keys(database, row.key_id)
    ensure_local(database, path)
    keys = ApiKeys(database)
    assert keys.caller(first) == "revoked" and not isinstance(keys.caller(path.read_text().strip()), str)


def test_a_local_key_that_stands_in_its_file_no_more_opens_nothing(database: Engine, tmp_path: Path) -> None:
    path = tmp_path / "keys" / "local.key"
    ensure_local(database, path)
    before = path.read_text().strip()
    path.unlink()
    ensure_local(database, path)
    keys = ApiKeys(database)
    assert keys.caller(before) == "revoked" and not isinstance(keys.caller(path.read_text().strip()), str)
