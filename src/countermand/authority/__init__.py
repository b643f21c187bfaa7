"""The only writer: what exists, what it may do, and the ledger of what no longer may.

model        what callers give and get
tables       the same in the database
migrations   how the tables came to be
database     transactions, and what they promise on either database
sqlite       one file, one process
postgres     one primary, several processes
turn         whose turn it is to write
ledger       the append-only, gapless, hash-chained record of revocations
appending    the last step of a change: to the audit, and to the ledger
lineage      what rests on what: every anchor, locked and checked with all its ancestors
exchange     who may act by what: from a mandate to the one that it is exchanged for
own_session  the session on which an application acts for itself
cascade      what a revocation reaches
registered   Biscuits that applications have registered, ended with what they are for
listing      lists of anchors and entries: along one index, a page at a time
once         requests that come twice, and are done once
checks       what callers give, checked before a transaction begins
views        rows as their callers see them
keys         signing keys: files that only we can read, registered in the database
keysets      which keysets a restored register has forgotten
rotation     the next key, and the one that is believed no more
replicas     what replicas report of themselves
receipts     how many of them enforce an entry, how soon, and who is behind
witnesses    who else has seen the ledger, and whether it is still the one that they saw
recovery     another generation, where it is not
heartbeat    checkpoints: every second, and after every revocation
reader       the ledger as a log that can be followed
relay        the ledger brought to a way that may lose it, over one connection after another
publication  what one connection publishes, and how it finds out what the way has lost
owed         what consumers are told beside: what may have been lost, and descendants
way          what is known of a way, whatever connection there is
source       what is published, and as which messages
access       who calls: keys for the API, and their roles
actor        who acts, known all through a request
audit        a row for every change, in its own transaction
trail        the audit as it is read

opening      use cases: applications, sessions, agents, grants and delegations
reading      use cases: one of each, lists, the tree, the ledger
minting      use cases: mandates, on a session, for an application itself, or in exchange
revoking     use cases: revocations and cutoffs, and what they would end
sweeping     use cases: revocations by filter
biscuits     use cases: Biscuits, revoked by id or by token
registering  use cases: Biscuits, registered for what they are to end with
export       use cases: the list of revoked Biscuits, for other verifiers
presenting   use cases: tokens that are shown, to be ended by their holder or, mandates, looked at
cleaning     what has ended long ago, taken away
descendants  who is still to be told that they were revoked
service      all of these put together
"""
