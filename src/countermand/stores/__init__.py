"""The documented revocation stores: which anchors are revoked, asked by the flat id that a token carries.

contract   what every store promises
memory     a store in this process
redis      a store that many processes share
client     Redis clients as callers bring them
breaker    when a server that does not answer is asked again
consumer   the documented consumer: a stream of revocations into a store
group      the stream as one consumer of a group sees it
message    what is on the stream
marking    the anchors of many messages, marked
outage     what does not work for a while
runner     a consumer on a thread of its own
"""
