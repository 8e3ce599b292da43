"""The map of a training set as a picture: a dot for each example, coloured by what became of it, the round's new ones ringed."""

from collections import Counter
from collections.abc import Callable
from html import escape
from io import BytesIO

from api.client import Json

SIDE = 640  # of the square that the places are drawn into
EDGE = 16
KEPT = "#0f766e"
RING = "#14242b"
# Of the steps, those that kept most back first: colours that the colour-blind tell apart, too (Okabe & Ito).
DROPPED = ("#d55e00", "#0072b2", "#e69f00", "#cc79a7", "#56b4e9", "#7f7f7f", "#b8a800", "#8c510a")
_RADIUS = 4.5
_TITLE_CHARACTERS = 160


def legend(found: Json) -> list[tuple[str, str, int]]:
    """(step, colour, examples), the kept first, whose step is empty, then the step that kept back most."""
    dropped = Counter(one["step"] or "before" for one in found["points"] if not one["kept"])
    kept = sum(one["kept"] for one in found["points"])
    told = sorted(dropped.items(), key=lambda one: (-one[1], one[0]))
    steps = [(step, DROPPED[place % len(DROPPED)], n) for place, (step, n) in enumerate(told)]
    return [("", KEPT, kept), *steps]


def draw_svg(found: Json, words: Callable[[Json], str], safe: Callable[[str], str] = escape) -> str:
    """`words` of a point: shown where the pointer rests. Each dot carries its example's id, as `data-id`."""
    colours = {step: colour for step, colour, _ in legend(found)}
    dots = ""
    for one in _in_order(found):
        x, y = _at(one, 1)
        colour = colours["" if one["kept"] else one["step"] or "before"]
        ring = f' stroke="{RING}" stroke-width="1.8"' if one["new"] else ""
        dots += (
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{_RADIUS}" fill="{colour}" fill-opacity=".82"{ring} data-act="why"'
            f' data-id="{safe(one["id"])}"><title>{safe(words(one))}</title></circle>'
        )
    return f'<svg class="n-map" viewBox="0 0 {SIDE} {SIDE}" role="img" aria-label="map">{dots}</svg>'


def in_words(one: Json) -> str:
    """What became of it, and its own words."""
    became = "kept" if one["kept"] else f"{one['step'] or 'before'}: {one['reason']}"
    number = f" ({one['number']:g})" if one["number"] is not None else ""
    return f"{cut(one['question'])}\n{cut(one['answer'])}\n{became}{number}"


def cut(words: str) -> str:
    return words if len(words) <= _TITLE_CHARACTERS else f"{words[:_TITLE_CHARACTERS]}…"


def draw_html(found: Json) -> str:
    """A page by itself. It holds people's words in clear."""
    title = f"{found['domain']}, round {found['number']}"
    entries = "".join(
        f'<li><span style="background:{colour}"></span>{escape(f"kept back by {step}" if step else "kept")}: {n}</li>'
        for step, colour, n in legend(found)
    )
    left_out = f"<p>{found['left_out']} more are not on it.</p>" if found["left_out"] else ""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title><style>'
        "body{font:15px system-ui,sans-serif;max-width:760px;margin:24px auto;padding:0 12px;color:#14242b}"
        "ul{list-style:none;display:flex;flex-wrap:wrap;gap:6px 18px;padding:0}"
        "span{display:inline-block;width:11px;height:11px;border-radius:50%;margin-right:6px}"
        "svg{width:100%;border:1px solid #e1e8ec;border-radius:12px}</style>"
        f"<h1>{escape(title)}</h1><ul>{entries}<li>ringed: new in this round</li></ul>{draw_svg(found, in_words)}{left_out}"
        "</html>"
    )


def draw_png(found: Json) -> bytes:
    from PIL import Image, ImageDraw, ImageFont

    scale, line = 4, 26  # drawn four times as large, so that its edges are smooth
    entries = legend(found)
    picture = Image.new("RGB", (SIDE * scale, (SIDE + line * (len(entries) + 1)) * scale), "white")
    draw = ImageDraw.Draw(picture)
    colours = {step: colour for step, colour, _ in entries}

    def dot(x: float, y: float, colour: str, ringed: bool) -> None:
        radius = _RADIUS * scale
        box = (x - radius, y - radius, x + radius, y + radius)
        draw.ellipse(box, fill=colour, outline=RING if ringed else None, width=round(1.6 * scale))

    for one in _in_order(found):
        dot(*_at(one, scale), colours["" if one["kept"] else one["step"] or "before"], one["new"])
    font = ImageFont.load_default(14 * scale)
    said = [(f"kept back by {step}: {n}" if step else f"kept: {n}", colour, False) for step, colour, n in entries]
    for place, (words, colour, ringed) in enumerate([*said, ("ringed: new in this round", "white", True)]):
        y = (SIDE + line * (place + 0.5)) * scale
        dot(EDGE * scale, y, colour, ringed)
        draw.text((2 * EDGE * scale, y), words, fill=RING, font=font, anchor="lm")
    content = BytesIO()
    picture.resize((SIDE * 2, picture.height * 2 // scale), Image.Resampling.LANCZOS).save(content, "PNG")
    return content.getvalue()


def _in_order(found: Json) -> list[Json]:
    """What is kept lies above what is not, and what is new above all."""
    return sorted(found["points"], key=lambda one: (one["new"], one["kept"], one["id"]))


def _at(one: Json, scale: int) -> tuple[float, float]:
    inside = SIDE - 2 * EDGE
    return (EDGE + one["x"] * inside) * scale, (EDGE + (1 - one["y"]) * inside) * scale
