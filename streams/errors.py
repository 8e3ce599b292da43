"""The kinds of trouble. Whatever is neither of these is a bug: the process stops and the event stays."""


class Invalid(Exception):
    """What was given can never be used: refuse or quarantine it, never retry."""


class InvalidField(Invalid):
    """A value that can never be used, with the name of the field that holds it (`thresholds.people`), of which `fault` tells."""

    def __init__(self, field: str, fault: str) -> None:
        super().__init__(f"{field} {fault}")
        self.field = field


class Unavailable(Exception):
    """Something this needs does not answer at present: retry in place, keeping the order."""


class LogUnavailable(Unavailable):
    """The log does not answer, and has not got what it was given."""


class EngineUnavailable(Unavailable):
    """An engine does not answer, or broke off its answer."""


class Behind(Unavailable):
    """What there is to know stands on the log, and whoever follows it has not come so far."""


class LoginRefused(LogUnavailable):
    """The log does not know who this says it is: somebody must mend the login, which is read anew with each try."""


class Unacknowledged(LogUnavailable):
    """The log was given something and did not say in time that it has it: it may have it, or come to have it yet. Sent again under
    the same id it counts once."""


class Erased(Exception):
    """The text was sealed with a key that has been destroyed. Whoever reads text must cope with it."""
