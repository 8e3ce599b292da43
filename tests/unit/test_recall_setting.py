"""Where the memory is that a door asks: the environment says, else what `noria up` wrote."""

import json
from pathlib import Path

from streams.settings import from_env

NEEDED = {"NORIA_KAFKA": "k", "NORIA_DATABASE_URL": "d", "NORIA_DOOR": "http://h:1"}


def test_the_memory_is_where_the_environment_or_the_written_addresses_say(tmp_path: Path) -> None:
    home = NEEDED | {"NORIA_HOME": str(tmp_path)}
    assert from_env(home).recall_url == ""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "noria.json").write_text(json.dumps({"recall": "http://127.0.0.1:8402"}))
    assert from_env(home).recall_url == "http://127.0.0.1:8402"
    assert from_env(home | {"NORIA_RECALL": "http://memory:9/"}).recall_url == "http://memory:9"
