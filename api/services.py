"""What the door's views work with, put together once by `main` or by a test."""

from msgspec import Struct, field
from sqlalchemy import Engine

from api.answering import Leavers
from api.guessing import WrongKeys
from api.keys import ApiKeys
from api.limits import Limits
from api.metrics import Metrics
from api.recall import Recaller
from api.recording import Recorder
from api.routing import Routes
from api.turns import Turns
from streams.erasures import PERSON
from streams.sealing import Keyring
from streams.settings import KeyLimits, Settings


class Services(Struct, frozen=True):
    settings: Settings
    database: Engine
    recorder: Recorder
    keyring: Keyring
    keys: ApiKeys
    routes: Routes
    metrics: Metrics
    turns: Turns
    recaller: Recaller
    limits: Limits = field(default_factory=lambda: Limits(KeyLimits()))
    wrong_keys: WrongKeys = field(default_factory=WrongKeys)
    leavers: Leavers = field(default_factory=Leavers)


def person_subject(person: str) -> str:
    """The keyring's name for a person: apart from the subjects of domains and of noria itself, whatever they call themselves."""
    return f"{PERSON}{person}"
