"""How the log travels.

http    server-sent events, snapshots and keys from an authority
redis   streams and a snapshot, written by the authority and read by replicas
"""
