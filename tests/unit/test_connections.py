"""All that runs on one machine finds room at its PostgreSQL, with room left for the command line."""

from pathlib import Path

from deploy.local import addresses, process_table
from deploy.postgres import SETTINGS
from streams.connections import SHARES, connections

WITHOUT_TABLES = {"kafka", "postgres", "page"}


def test_what_everything_may_have_at_once_is_what_the_server_takes() -> None:
    room = int(SETTINGS["max_connections"]) - int(SETTINGS["superuser_reserved_connections"])
    assert connections() <= room, f"{connections()} of {room}"


def test_every_process_that_serves_has_its_share(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    table = process_table(tmp_path, addresses(tmp_path, {}), {})
    serving = {process.name for process in table if not process.once}
    assert serving - WITHOUT_TABLES == set(SHARES) - {"command"}


def test_nobody_who_serves_waits_for_ever_and_no_command_is_cut() -> None:
    for name, share in SHARES.items():
        limits = (share.statement_s, share.lock_s, share.idle_in_transaction_s)
        assert 0 < share.wait_s <= 30 and (not any(limits) if name == "command" else all(limits)), name


def test_the_page_on_postgresql_says_what_each_process_has() -> None:
    page = (Path(__file__).parents[2] / "deploy" / "postgres.md").read_text()
    limits = {
        name: [share.statement_s or "-", share.lock_s or "-", share.idle_in_transaction_s or "-"]
        for name, share in SHARES.items()
    }
    for name, share in SHARES.items():
        cells = [
            f"`{name}`",
            f"`{share.role}`" if share.role else "the owner",
            share.pool + share.listens,
            *limits[name],
        ]
        assert f"| {' | '.join(map(str, cells))} |" in page
    assert f"are {connections()}:" in page
