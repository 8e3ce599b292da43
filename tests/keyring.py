"""A keyring in memory."""

from streams.errors import Erased
from streams.sealing import PersonKey


class Ring:
    """Has whatever sealing asks of a keyring; `erase` forgets a person."""

    def __init__(self, *keys: PersonKey) -> None:
        self.keys = {key.kid: key for key in keys}

    def key_for(self, subject: str) -> PersonKey:
        return self.keys.setdefault(subject, PersonKey(subject, subject.encode().ljust(32, b".")[:32]))

    def find(self, kid: str) -> PersonKey:
        if kid not in self.keys:
            raise Erased(f"key {kid} was destroyed")
        return self.keys[kid]

    def erase(self, subject: str) -> None:
        del self.keys[subject]
