"""What all of the page is drawn with."""

from html import escape


def safe(words: object) -> str:
    """Words as HTML text. The braces and the dollar too: the page's templates would read them."""
    text = escape(str(words), quote=True)
    return text.replace("{", "&#123;").replace("}", "&#125;").replace("$", "&#36;").replace("`", "&#96;")


def card(title: str, body: str, more: str = "") -> str:
    """A box with a title; `body` and `more` (beside the title) are HTML."""
    return f'<section class="n-card"><header><h3>{safe(title)}</h3>{more}</header>{body}</section>'
