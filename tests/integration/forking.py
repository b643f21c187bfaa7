"""A program that guards a WSGI app and forks: one request for each token that it reads, one line about each answer.

Its arguments are the authority's URL, the audience, and whether a request is served before the fork. The child serves
until a request carries no token, and then the parent serves one.
"""

import io
import os
import sys
import warnings
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import countermand


def main(url: str, audience: str, used: str) -> None:
    app = countermand.connect(url, issuer=url, audience=audience).wsgi(_hello)
    if used == "used":
        _serve("before", app)
    warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of a fork beside a thread: as here
    if os.fork() == 0:
        while _serve("child", app):
            pass
    else:
        os.wait()
        _serve("parent", app)


def _hello(_environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", [])
    return [b"hello"]


def _serve(name: str, app: WSGIApplication) -> bool:
    """Serve one request; return whether it carried a token."""
    token = sys.stdin.readline().strip()
    statuses: list[str] = []

    def start_response(status: str, *_: object) -> None:
        statuses.append(status)

    environ = {"REQUEST_METHOD": "GET", "wsgi.input": io.BytesIO(), "HTTP_AUTHORIZATION": f"Bearer {token}"}
    list(app(environ, start_response))  # type: ignore[arg-type]  # nobody writes
    print(name, *statuses, flush=True)  # noqa: T201 - it is a program
    return bool(token)


if __name__ == "__main__":
    main(*sys.argv[1:])
