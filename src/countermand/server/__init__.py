"""The authority's faces over HTTP.

app          everything put together
api          /v1: applications and their keys, sessions, agents, grants, delegations, the tree
revocations  /v1: revocations and cutoffs, done or only tried
biscuits     /v1: Biscuits, revoked by token, registered, and listed
ledger       /v1: the ledger taken up again after a restore
bodies       what they take and give, a module for each of their resources
filters      what lists and revocations by filter are asked for
idempotency  requests that come twice
openapi      what all of this says of itself
oauth        /oauth2 and its metadata: mandates given, ended and looked at, for applications
feed         /v1/log: the log as server-sent events, and snapshots
keys         /v1/keys: who may call, and as what
signing_keys /v1/signing-keys: which keys sign, the next ones, and those believed no more
replicas     /v1/replicas: how far each has come
audit        /v1/audit: who changed what
trace        a request's id, in its answer and wherever it leaves a trace
caller       who calls, and what they may do
limit        how long a request's body may be, and may take
problem      every refusal as a problem document
"""
