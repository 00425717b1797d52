"""What keeps strangers out: who may connect, as lists of networks (`networks`).

Nothing here speaks a protocol. Stations ask and get an answer; what they say to the peer is theirs.
"""
