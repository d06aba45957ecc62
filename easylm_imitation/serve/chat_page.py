"""The chat page: the files of page/ as they are, under headers that let them reach this server alone.

The files say nothing about the model, so they need no key; the page asks for one when `page/models` wants it. All is
written here but page/marked.js, the lexer of marked 18.2.1 (MIT, page/marked.LICENSE.txt): reading markdown right is
not what this project is for. It only cuts text into tokens; page/markdown.js makes DOM nodes of them.
"""
import pathlib

import fastapi
from fastapi.responses import Response

_FOLDER = pathlib.Path(__file__).parent / "page"
_TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8",
          ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
# Path of each file; a new file of the page needs a line here.
FILES = {"/": "index.html", **{f"/page/{name}": name for name in (
    "style.css", "icon.svg", "app.js", "api.js", "markdown.js", "marked.js", "prompts.js", "settings.js")}}
# Nothing but the page's own files and this server; no inline code, no frame, no text that becomes HTML.
CSP = ("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
       "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'")
HEADERS = {"Content-Security-Policy": CSP, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
           "X-Frame-Options": "DENY", "Cross-Origin-Opener-Policy": "same-origin",
           "Cross-Origin-Resource-Policy": "same-origin", "Cache-Control": "no-cache"}


def add_files(app: fastapi.FastAPI) -> None:
    """Adds a route for each file."""
    for path, name in FILES.items():
        _add_file(app, path, _FOLDER / name)


def _add_file(app: fastapi.FastAPI, path: str, file: pathlib.Path) -> None:
    content, kind = file.read_bytes(), _TYPES[file.suffix]

    @app.head(path, include_in_schema=False)
    @app.get(path, name=f"page {file.name}", include_in_schema=False)
    def page_file() -> Response:
        return Response(content, headers=HEADERS, media_type=kind)
