"""The standard OAuth endpoints, for applications and for whoever asks about their tokens.

clients     who calls, and by which credential
form        what is sent, read
answers     what is refused, in the words of RFC 6749
token       /oauth2/token: mandates in exchange for mandates, and for applications themselves
revoke      /oauth2/revoke: the end of a mandate or a Biscuit, by its holder
introspect  /oauth2/introspect: whether a mandate stands
metadata    /.well-known/oauth-authorization-server: where all of that is
"""

from fastapi import APIRouter

from countermand.authority.access import Access
from countermand.authority.service import Authority
from countermand.server.oauth.clients import ApplicationKey, ReadingKey
from countermand.server.oauth.introspect import introspection_router
from countermand.server.oauth.metadata import metadata_router
from countermand.server.oauth.revoke import revocation_router
from countermand.server.oauth.token import token_router

__all__ = ["oauth_router"]


def oauth_router(authority: Authority, access: Access, issuer: str) -> APIRouter:
    """Return the routes of an authority that others know as `issuer`."""
    applications = ApplicationKey(access)
    router = APIRouter()
    router.include_router(token_router(authority.minting, applications))
    router.include_router(revocation_router(authority.presenting, applications))
    router.include_router(introspection_router(authority.presenting, applications, ReadingKey(access)))
    router.include_router(metadata_router(issuer))
    return router
