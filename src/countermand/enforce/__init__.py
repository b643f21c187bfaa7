"""May this token act now? A denial is a value; whatever cannot be known is denied.

decision      Allow or Deny, the codes of a denial, and what a request must meet
revocations   how a replica and a documented store are asked
guard         the decision: every check, in its order
bearer        the bearer token of a header, and a denial as an answer (RFC 6750)
inflight      calls that were let in, and whether they may go on
gate          between a server and an app: what passes, and how a call is cut
identity      who acts, as headers for the service behind a gateway or a proxy
resource      what a resource says of itself (RFC 9728)
trace         what was decided, as records of a log; the id of a request
metrics       the same, as Prometheus scrapes it
asking        how an app asks the guard about the request that it serves
asgi          the guard before an ASGI app: HTTP, web sockets, lifespan
gateway       an app that forwards to a service, behind the guard
forks         what is renewed in a process that was forked
thread        the guard in a thread of its own, for threads to ask
wsgi          the guard before a WSGI app
mcp           for servers made with the official MCP SDK
fastmcp       for FastMCP servers
fastapi       for FastAPI apps: a dependency
forward_auth  what a proxy asks about each request
authenticate  the documented face
"""
