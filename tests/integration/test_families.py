"""Every family says the same through llama.cpp as through transformers, with biases, tied, and with each kind of rotation."""

from pathlib import Path

import pytest

from tests import tiny_families
from workers.models.base import build_base
from workers.models.check import check_export, hostile_strings


@pytest.mark.parametrize("case", tiny_families.ALL)
def test_a_family_says_the_same_through_llamacpp_as_through_transformers(tmp_path: Path, case: str) -> None:
    folder = tmp_path / "finished"
    build_base(folder, str(tiny_families.write(tmp_path / "source", case)))
    checked = check_export(folder, folder / "model-f16.gguf")
    assert checked.golden.max_difference < 0.05
    assert checked.golden.tokens >= 64
    assert checked.strings == len(hostile_strings())
