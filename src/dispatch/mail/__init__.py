"""The words: pure values that every other part speaks in.

Nothing here does I/O, reads a clock or draws chance. A word means the same in every room:

- `ids`       one id a message, written in two ways
- `address`   what is between the angle brackets (RFC 5321 section 4.1.2)
- `envelope`  reverse-path, forward-paths and their ESMTP parameters (RFC 5321 section 2.3.1)
- `message`   an accepted envelope with its content and our id
- `reply`     three digits, an enhanced code and text (RFC 5321 section 4.2, RFC 3463)
- `report`    what a relay saw while it tried: replies and faults, without a judgement
- `outcome`   what that means for one recipient
- `delivery`  the states of getting one message to one recipient, and the moves between them
- `showable`  what of a stranger's text may be shown to a person
"""
