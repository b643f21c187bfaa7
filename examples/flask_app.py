"""A Flask app: every route needs a mandate, one needs a scope too, and one streams until the mandate is revoked.

flask --app examples/flask_app.py run --port 8000
"""

import time
from collections.abc import Iterator

from flask import Flask, Response, request

import countermand
from countermand.enforce.wsgi import requires
from countermand.errors import DeniedError

AUTHORITY = "http://127.0.0.1:8420"

app = Flask(__name__)
guard = countermand.connect(AUTHORITY, issuer=AUTHORITY, audience="http://127.0.0.1:8000")
app.wsgi_app = guard.wsgi(app.wsgi_app)  # type: ignore[method-assign]  # that is where Flask wants it


@app.get("/whoami")
def whoami() -> str:
    """Say who calls."""
    return str(request.environ["countermand.mandate"].subject)


@app.post("/notes")
@requires(guard, required_scopes=["notes:write"])
def add_note() -> tuple[str, int]:
    """Take a note from whoever may write notes."""
    return "noted", 201


@app.get("/ticks")
def ticks() -> Response:
    """Stream, as long as the mandate stands."""

    def stream() -> Iterator[str]:
        while True:
            yield "tick\n"
            time.sleep(0.01)

    return Response(stream(), mimetype="text/plain")


@app.errorhandler(DeniedError)
def denied(_error: DeniedError) -> str:
    """Leave the answer to the guard, which gives it; without this, Flask would log an error."""
    return ""
