"""A migration that has landed was carried out somewhere: it is never changed, a new one comes after it."""

import hashlib
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "migrations" / "versions"
LANDED = Path(__file__).parents[1] / "examples" / "migrations.sha256"


def test_no_migration_that_landed_was_changed_and_each_new_one_is_written_down() -> None:
    """For a new one: `sha256sum *.py` in its folder, once it is as it will land."""
    landed = dict(reversed(line.split()) for line in LANDED.read_text().splitlines())
    now = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in FOLDER.glob("*.py")}
    assert now == landed
