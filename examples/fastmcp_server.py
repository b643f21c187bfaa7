"""A FastMCP server: a tool that only holders of a mandate may call, and whose streams end with it.

uvicorn --app-dir examples fastmcp_server:app
"""

from fastmcp import FastMCP
from fastmcp.server.dependencies import get_access_token

import countermand
from countermand.enforce.fastmcp import MandateAuth

AUTHORITY = "http://127.0.0.1:8420"

guard = countermand.connect(AUTHORITY, issuer=AUTHORITY, audience="http://127.0.0.1:8000/mcp")
server = FastMCP("notes", auth=MandateAuth(guard))


@server.tool
async def whoami() -> str:
    """Say who calls."""
    token = get_access_token()
    return token.subject or "" if token else ""


app = server.http_app(path="/mcp")
