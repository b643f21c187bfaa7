"""Bytes to Unverified to Verified: what a token says, and by what it can be revoked.

Keys and time are arguments; nothing here opens a connection.

    encoding     JSON, read strictly
    keys         one key that signs, one key that verifies
    jwks         the keys of an issuer, and how long to believe them
    claims       what a mandate says, every type checked, and all by which it can be revoked
    mandate      the signed JWT that carries authority: parsed, verified, minted
    fields       Protobuf, read strictly
    blocks       what stands in a Biscuit's blocks, and when a check ends it
    work         what authorizing a Biscuit may cost, before it is done
    cache        tokens that were verified, so that one which comes again costs no signature
"""
