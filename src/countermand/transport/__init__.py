"""How the log travels.

http           server-sent events, snapshots and keys from an authority
redis          streams and a snapshot, written by the authority and read by replicas
redis_client   URL to client: the one Redis that holds the log now
"""
