"""The documented revocation stores: which anchors are revoked, asked by the flat id that a token carries.

contract   what every store promises
memory     a store in this process
"""
