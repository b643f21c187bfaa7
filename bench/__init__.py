"""What it costs to know: `make bench`.

Every claim is a ratio against a peer in the same run: medians of many rounds, in which all take turns.

    harness      turns, medians, rows
    log          a log of a million revocations, and tokens that none of them reaches
    peers        what others publish, in an environment of its own
    documented   what runs in there
    apply        entries applied a second
    lookup       one token's anchors against a million entries
    decide       may this token act now?
    memory       bytes an entry
    cascade      until a revocation that ends ten thousand others is answered
    propagation  from the answer of a revocation to the rejection, and to the closed stream
    reports      what it costs an authority that replicas report
    forward_auth questions of a proxy per second of CPU, over HTTP

Over a real Redis, which it starts:

    shared            that Redis, and the published store and consumer on it
    documented_redis  what runs in the published packages' environment
    process           processes of the bench's own: `authority`, `replicas`, `forward_auth_server`
    ask               one token's anchors: the published store, ours, a replica
    consume           documented messages applied a second
    catch_up          entries a replica takes a second, end to end
    reject            from the commit of a revocation until a replica rejects
    cold_start        from nothing to a fresh replica with a million entries
"""
