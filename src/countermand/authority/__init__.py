"""The only writer: what exists, what it may do, and the ledger of what no longer may.

model       what callers get: applications, sessions, revocations
tables      the same in the database
migrations  how the tables came to be
database    transactions: one writer, many readers
ledger      the append-only, gapless, hash-chained record of revocations
keys        signing keys: files that only we can read, registered in the database
heartbeat   checkpoints: every second, and after every revocation
reader      the ledger as a log that can be followed
access      who calls: keys for the API, and their roles
service     every use case, one method each, one transaction each
"""
