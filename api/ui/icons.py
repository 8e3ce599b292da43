"""The page's drawings, drawn here: nothing is fetched from elsewhere."""


def _icon(paths: str) -> str:
    return (
        '<svg class="n-icon" viewBox="0 0 24 24" width="16" height="16" fill="none" stroke="currentColor"'
        f' stroke-width="1.8" stroke-linecap="round" stroke-linejoin="round" aria-hidden="true">{paths}</svg>'
    )


_THUMB = (
    '<path d="M7 11v9H4a1 1 0 0 1-1-1v-7a1 1 0 0 1 1-1h3zm0 0 4-8a2 2 0 0 1 2.2 2.6L12.5 9H18a2 2 0 0 1 2 2.4'
    'l-1.3 7A2 2 0 0 1 16.7 20H7"/>'
)
THUMB_UP = _icon(_THUMB)
THUMB_DOWN = _icon(f'<g transform="rotate(180 12 11.8)">{_THUMB}</g>')
PEN = _icon('<path d="M4 20h4L19 9a2.1 2.1 0 0 0-4-4L4 16v4zM13.5 6.5l4 4"/>')
BUBBLE = _icon('<path d="M4 5h16v11H10l-4 4v-4H4z"/>')
ORDER = _icon('<path d="M10 6h10M10 12h10M10 18h10M4 5l1.5-1v5M4 15h2.5L4 19h2.5"/>')
CHECK = _icon('<path d="M5 12.5l4.5 4.5L19 7.5"/>')
SKIP = _icon('<path d="M5 12h13M13 6l6 6-6 6"/>')
BACK = _icon('<path d="M19 12H6M11 6l-6 6 6 6"/>')
CROSS = _icon('<path d="M6 6l12 12M18 6L6 18"/>')

# A water wheel: rim, hub, eight spokes, buckets on the rim, and the stream under it.
_SPOKE = '<path d="M24 19V6"/><path d="M21 4.5h6"/>'
_SPOKES = "".join(f'<g transform="rotate({angle} 24 22)">{_SPOKE}</g>' for angle in range(0, 360, 45))
WHEEL = (
    '<svg class="n-wheel" viewBox="0 0 48 48" width="30" height="30" fill="none" stroke="currentColor"'
    ' stroke-width="2.2" stroke-linecap="round" aria-hidden="true">'
    f'<g class="n-turning"><circle cx="24" cy="22" r="14"/><circle cx="24" cy="22" r="3"/>{_SPOKES}</g>'
    '<path class="n-water" d="M3 42c3.5-3 7-3 10.5 0s7 3 10.5 0 7-3 10.5 0 7 3 10.5 0"/></svg>'
)
