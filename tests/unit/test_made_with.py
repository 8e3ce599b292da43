"""With what a candidate was made: read without loading it, compared field by field."""

from pathlib import Path

from msgspec.structs import replace

from streams.made_with import Difference, differences
from tests.samples import MADE_WITH
from workers.made_with import made_with


def test_what_was_made_with_the_same_differs_in_nothing() -> None:
    assert differences(MADE_WITH, replace(MADE_WITH)) == ()


def test_a_library_a_processor_and_a_number_of_threads_are_named_with_what_they_were_and_are() -> None:
    other = replace(
        MADE_WITH,
        libraries={"torch": "2.14.0", "transformers": "5.17.0", "peft": "0.21.2"},
        processor="Allotment 9001",
        threads=1,
    )
    assert differences(MADE_WITH, other) == (
        Difference("torch", "2.13.0", "2.14.0"),
        Difference("processor", "Allotment 9000", "Allotment 9001"),
        Difference("threads", "2", "1"),
        Difference("peft", "", "0.21.2"),
    )


def test_this_machine_is_read_from_what_the_system_says_of_it(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("model name\t: Allotment 9000\nflags\t\t: fpu avx2 sse fma bmi2\n")
    found = made_with(2, "float32", "cpu", cpuinfo=cpuinfo)
    assert (found.processor, found.abilities, found.threads) == ("Allotment 9000", ("avx2", "fma"), 2)
    assert {"torch", "transformers", "numpy"} <= set(found.libraries) and found.noria
    assert made_with(2, "float32", "cpu", cpuinfo=tmp_path / "none").abilities == ()


def test_of_several_processes_it_is_told_how_many_there_were_and_what_they_trained_by() -> None:
    found = made_with(1, "float32", "cpu", processes=2)
    assert found.device == "2 x cpu" and {"accelerate", "trl"} <= set(found.libraries)
    others = {one.what for one in differences(made_with(1, "float32", "cpu"), found)}
    assert others == {"device", "accelerate", "trl"}
