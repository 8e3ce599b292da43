"""The runner of benchmarks: its list of names, and the shape of what it writes."""

import json
from pathlib import Path

import pytest

from tests.bench import __main__ as runner
from tests.bench.generate import Generator
from tests.bench.report import percentile, row
from tests.bench.size import size


def test_every_benchmark_is_listed_with_what_it_measures(capsys: pytest.CaptureFixture[str]) -> None:
    modules = {path.stem for path in Path(runner.__file__).parent.glob("*.py") if "def measure(" in path.read_text()}
    assert set(runner.NAMES) == modules
    assert runner.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(runner.NAMES)
    assert all(len(line.split()) > 3 for line in lines)
    assert runner.main(["nothing"]) == 2


def test_a_report_holds_each_figure_with_its_runs_and_their_median(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.bench.swap.measure", lambda home: [row("a case", "a metric", "ms", [3.0, 1.0, 2.0])])
    written = json.loads(runner.run("swap", tmp_path / "bench").read_text())
    assert (tmp_path / "bench" / "swap.json").exists()
    assert written["name"] == "swap" and set(written) == {"name", "commit", "machine", "rows"}
    assert {"cpus", "model", "memory_gib", "python"} <= set(written["machine"])
    figure = {"case": "a case", "metric": "a metric", "unit": "ms", "value": 2.0, "runs": [3.0, 1.0, 2.0]}
    assert written["rows"] == [figure]


def test_a_percentile_lies_between_the_values_around_it() -> None:
    assert percentile([float(n) for n in range(101)], 99) == pytest.approx(99.0)
    assert percentile([1.0, 2.0], 50) == pytest.approx(1.5)


def test_the_size_of_a_benchmark_can_be_set_and_must_be_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    assert size("RUNS", 3) == 3
    monkeypatch.setenv("NORIA_BENCH_RUNS", "2")
    assert size("RUNS", 3) == 2
    monkeypatch.setenv("NORIA_BENCH_RUNS", "many")
    with pytest.raises(SystemExit, match="NORIA_BENCH_RUNS"):
        size("RUNS", 3)


def test_the_generated_log_has_exactly_the_asked_size_and_the_same_keys_for_the_same_seed() -> None:
    first, second = ([(m.topic, m.key) for m in Generator(7).messages(500)] for _ in range(2))
    assert len(first) == 500 and first == second
