"""The base model that engine tests serve: prepared once, kept in pytest's cache, shared by all sessions on this machine."""

from pathlib import Path

import pytest

from workers.models.base import prepare_base


@pytest.fixture(scope="session")
def base_model(pytestconfig: pytest.Config) -> Path:
    home = Path(pytestconfig.cache.mkdir("base-model"))
    return prepare_base(home)
