"""The authority's faces over HTTP.

app       everything put together
api       /v1: applications, sessions, mandates, revocations
feed      /v1/log: the log as server-sent events, and snapshots
caller    who calls, and what they may do
limit     how long a request's body may be, and may take
problem   every refusal as a problem document
"""
