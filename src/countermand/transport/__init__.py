"""How the log travels.

http   server-sent events, snapshots and keys from an authority
"""
