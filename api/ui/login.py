"""The page before there is a visitor: a key is asked for. A link's one-time token stands behind the #, which no server sees."""

from api.ui.icons import WHEEL
from api.ui.markup import safe
from api.ui.style import FONTS, LOGIN_STYLE, ONCE_SCRIPT
from api.ui.words import Lang, say


def draw_login(lang: Lang, trouble: str | None = None) -> str:
    """A whole document. `trouble`: the key of the words for why the last try did not do."""
    tongue = "zh-CN" if lang == "zh" else "en"
    alarm = f'<p class="n-trouble" role="alert">{safe(say(lang, trouble))}</p>' if trouble else ""
    fonts = ", ".join(f'"{font}"' if " " in font else font for font in FONTS)
    return (
        f'<!doctype html><html lang="{tongue}"><head><meta charset="utf-8"><title>Noria</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="/favicon.ico"><style>body {{ font-family: {fonts}; }}{LOGIN_STYLE}</style></head>'
        f"<body><main>{WHEEL}<h1>{safe(say(lang, 'login_title'))}</h1>{alarm}"
        f'<form method="post" id="n-login"><label for="n-key">{safe(say(lang, "login_key"))}</label>'
        '<input id="n-key" name="key" type="password" autocomplete="off" spellcheck="false" autofocus required>'
        f"<button>{safe(say(lang, 'login'))}</button></form>"
        f"<p>{safe(say(lang, 'login_words'))} <code>noria page-link</code></p></main>"
        f"<script>{ONCE_SCRIPT}</script></body></html>"
    )
