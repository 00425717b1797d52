"""Station 5: the ledger read from cursors, and what is made of it.

- `tail`        follows the ledger and hands its records to reactors, batch by batch
- `history`     the reactor that writes history and counters, exactly once
- `bounce`      the reactor that tells senders what became of their mail, once
- `log_lines`   the reactor that says every final outcome in one line, at least once
- `statistics`  counters as people ask for them: today, these days, by relay
- `audit`       `ledger verify`: every acceptance has one final outcome per recipient, or is in the queue

Nothing here decides about mail: what happened has happened, and stands in the ledger.
"""
