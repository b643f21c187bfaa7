"""What is a revocation, and how is it proven?

Pure: no I/O, no clock, no asyncio. Every format is given to the byte in docs/protocol.md.

    codec        numbers and texts as bytes
    anchor       what can be revoked, and what a token rests on
    entry        one revocation in canonical bytes
    chain        the hash chain that binds the entries in order
    checkpoint   the authority's signed word on where the ledger ended, and when
    succession   the signed word that another generation of the log has begun
    keyset       which keys speak for the log from now on, signed by one that did before
    snapshot     the signed set of all revocations still in force
    audit        who changed what, in rows that checkpoints sign
    wire         an entry as the documented text fields, ours beside them
    hmac         the documented `_sig` of a stream message
    feed         the records as server-sent events
    freshness    how old a replica's knowledge is
    revoked      what is revoked, held so that asking is cheap
    verdict      the three answers to the one question
    state        verified application: the only way in for a record
    ports        what a log must offer to be followed
"""
