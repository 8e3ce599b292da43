"""What a tokenizer would take for a control token, kept from being one in what people wrote. Pure.

Which texts these are, the model's folder says (`workers.models.tokens.control_tokens`); the door reads it from the engine's row.
"""

from collections.abc import Iterable

# The joiner keeps the letters as they are for a reader and a model, and the token from being one for the tokenizer.
JOINER = "\u200d"
_NOTHING = "\N{REPLACEMENT CHARACTER}"  # of one letter there is nothing to join


def escape_control_tokens(words: str, tokens: Iterable[str]) -> str:
    """`words` with a zero-width joiner after the first letter of each of `tokens` that stands in it.

    A template parses control tokens wherever they stand; without this a person could end their own turn and speak as the
    system. Text that holds none comes back unchanged, and escaping twice is escaping once.
    """
    for token in tokens:
        if token in words:
            words = words.replace(token, token[0] + JOINER + token[1:] if len(token) > 1 else _NOTHING)
    return words
