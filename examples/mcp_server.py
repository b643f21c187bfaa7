"""An MCP server of the official SDK: a tool that only holders of a mandate may call, and whose streams end with it.

uvicorn --app-dir examples mcp_server:app
"""

from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.mcpserver import MCPServer

import countermand
from countermand.enforce.mcp import MandateVerifier, auth_settings

AUTHORITY = "http://127.0.0.1:8420"

guard = countermand.connect(AUTHORITY, issuer=AUTHORITY, audience="http://127.0.0.1:8000/mcp")
server = MCPServer("notes", token_verifier=MandateVerifier(guard), auth=auth_settings(guard))


@server.tool()
async def whoami() -> str:
    """Say who calls."""
    token = get_access_token()
    return token.subject or "" if token else ""


app = guard.asgi(server.streamable_http_app())
