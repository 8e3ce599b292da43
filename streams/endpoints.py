"""An endpoint of somebody else's that a policy names: one that speaks OpenAI's protocol. Pure.

Whether its address may be asked is looked at where it is asked: `workers.endpoints`.
"""

from urllib.parse import urlsplit

from msgspec import Struct

from streams.errors import InvalidField

MOST_IN_FLIGHT = 256


class Endpoint(Struct, frozen=True):
    """`base_url` is what stands before `/embeddings` or `/chat/completions`, e.g. `https://host/v1`. A key is no part of a policy:
    it comes from the environment of the process that asks."""

    base_url: str
    model: str

    def check(self, where: str) -> None:
        """Raise Invalid naming the field, if nobody could be asked there."""
        if not self.base_url.startswith(("http://", "https://")) or not urlsplit(self.base_url).hostname:
            raise InvalidField(f"{where}.base_url", "must be an address like http://127.0.0.1:8080/v1")
        if not self.model:
            raise InvalidField(f"{where}.model", "must name a model")


class Embeddings(Endpoint, frozen=True):
    """Of `/embeddings`, in the place of the sentence encoder that comes with Noria."""


class Teacher(Endpoint, frozen=True):
    """Of `/chat/completions`: who words training material. So many requests are `in_flight` at once, and one build may spend so
    many `tokens`, of prompts and answers together, by the teacher's own count."""

    in_flight: int = 4
    tokens: int = 1_000_000

    def check(self, where: str) -> None:
        super().check(where)
        if self.in_flight < 1:
            raise InvalidField(f"{where}.in_flight", f"must be at least 1; got {self.in_flight}")
        if self.tokens < 1:
            raise InvalidField(f"{where}.tokens", f"must be at least 1; got {self.tokens}")

    def check_new(self, where: str) -> None:
        """Raise Invalid naming the field, for more than anybody means."""
        if self.in_flight > MOST_IN_FLIGHT:
            raise InvalidField(f"{where}.in_flight", f"must be at most {MOST_IN_FLIGHT}; got {self.in_flight}")
