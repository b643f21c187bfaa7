"""What the admin API takes and gives, as JSON: whatever is under /v1/x is in `x`, or in `anchors`.

anchors       applications, sessions, agents, grants, delegations, the tree
mandates      minted on a session, or in exchange
revocations   and cutoffs, and what they reach
receipts      who enforces one
ledger        its recovery
keys          for the API, and of applications
signing_keys  of the authority itself
replicas      what they report
audit         its rows, and what proves them
parts         what all of these are made of
"""
