"""The page as a web application: the blocks behind the log-in, and headers that keep a browser from asking anybody else."""

from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Any

from api.client import Door
from streams.errors import Invalid

# Scripts and styles stand inside the page, and templates are compiled in the browser; all else comes from here alone.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:;"
    " frame-ancestors 'none'; form-action 'self'; base-uri 'self'; object-src 'none'"
)
LASTING = ("/assets/", "/static/")  # the same for everybody
QUEUE_LOOK_S = 0.05
ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 48 48" fill="none" stroke="#0f766e" stroke-width="4">'
    '<circle cx="24" cy="24" r="17"/><path d="M24 7v34M7 24h34M12 12l24 24M36 12 12 36"/></svg>'
)


def create_app(door: Door, hosts: Collection[str], home: Path) -> Any:
    """An ASGI application with the page at `/`, for who has logged in, and its sign of life at `/healthz`. `door` needs no key;
    `hosts`: the names it is reached by, besides those of this machine to itself; `home`: whose page it is."""
    import gradio as gr
    from fastapi import FastAPI, Request, Response
    from fastapi.responses import JSONResponse

    from api.ui.dropped import Dropped
    from api.ui.entry import DROPPED, VISITOR, Entry, Visitors
    from api.ui.page import build, theme
    from api.ui.style import STYLE

    app = FastAPI(title="Noria", docs_url=None, redoc_url=None, openapi_url=None)

    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    async def icon() -> Response:
        return Response(ICON, media_type="image/svg+xml")

    async def guard(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await answer(request)
        response.headers["Content-Security-Policy"] = POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        # Not no-referrer: a form would then be sent as from nowhere, and only this page's own are taken.
        response.headers["Referrer-Policy"] = "same-origin"
        if not request.url.path.startswith(LASTING):
            response.headers["Cache-Control"] = "no-store"
        return response

    app.get("/healthz")(healthz)
    app.get("/favicon.ico")(icon)
    dropped = Dropped(home)

    async def drop(request: Request, name: str = "") -> Response:
        try:
            await dropped.hold(request.scope[VISITOR].session, name, request.stream())
        except Invalid as error:
            return JSONResponse({"error": str(error)}, 413)
        return JSONResponse({"dropped": name})

    app.post(DROPPED)(drop)
    app.add_middleware(Entry, visitors=Visitors(door), hosts=hosts)
    app.middleware("http")(guard)  # around it: what it refuses has the same headers
    blocks = build(door, dropped)
    # Gradio looks at its queue a thousand times a second, which wakes a core as often for nothing.
    blocks._queue.sleep_when_free = QUEUE_LOOK_S
    return gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        theme=theme(),
        css_paths=[STYLE],
        footer_links=[],
        run_history=False,
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        max_file_size=1,
        pwa=False,
    )
