"""Pages of other origins in a browser: none may read what the door answers, unless NORIA_CORS_ORIGINS names them."""

from flask import Flask, Response, request

ANY = "*"
_KEPT_S = 600
_SHOWN = "Retry-After, X-Noria-Release, X-Noria-Conversation, X-Noria-Prompt"


def allow_origins(app: Flask, origins: tuple[str, ...]) -> None:
    """Let pages of `origins` (`*`: of any) call `app`. A key is needed all the same; cookies are never looked at."""
    if not origins:
        return

    @app.before_request
    def answer_preflight() -> Response | None:
        asked = request.headers.get("Access-Control-Request-Method")
        if request.method != "OPTIONS" or asked is None or not _allowed():
            return None
        response = Response(status=204)
        response.headers["Access-Control-Allow-Methods"] = "GET, POST, PUT, DELETE"
        response.headers["Access-Control-Allow-Headers"] = request.headers.get("Access-Control-Request-Headers", "")
        response.headers["Access-Control-Max-Age"] = str(_KEPT_S)
        return response

    @app.after_request
    def name_origin(response: Response) -> Response:
        response.headers.add("Vary", "Origin")
        if _allowed():
            response.headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
            response.headers["Access-Control-Expose-Headers"] = _SHOWN
        return response

    def _allowed() -> bool:
        origin = request.headers.get("Origin")
        return origin is not None and (ANY in origins or origin in origins)
