"""The kinds of trouble. Whatever is neither of these is a bug: the process stops and the event stays."""


class Invalid(Exception):
    """What was given can never be used: refuse or quarantine it, never retry."""


class Unavailable(Exception):
    """Something this needs does not answer at present: retry in place, keeping the order."""


class LoginRefused(Unavailable):
    """The log does not know who this says it is: somebody must mend the login, which is read anew with each try."""


class Unacknowledged(Unavailable):
    """The log was given something and did not say in time that it has it: it may have it, or come to have it yet. Sent again under
    the same id it counts once."""


class Erased(Exception):
    """The text was sealed with a key that has been destroyed. Whoever reads text must cope with it."""
