"""A resource server's own copy of what is revoked.

replica   answers from memory, and says how fresh the answer is
follow    the loop that keeps it so, over any log that can be followed
report    what it tells the authority about itself
"""
