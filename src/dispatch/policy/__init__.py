"""The decisions: pure functions and small machines that are told the facts and answer.

Time, chance and everything that had to be looked up are arguments; nothing here waits, opens or
asks. That is why each decision stands in one file, has a table where a table will do, and is
proven by tests that need no machine.

- `admission`    which submissions are refused, in which order of checks, with which words
- `patterns`     patterns of addresses, as rules have them
- `routing`      which relays a recipient's mail may take, and the rule that said so
- `verdict`      what a relay's replies and faults mean for each recipient: the only file that decides it
- `schedule`     when a deferred delivery is tried again, and when it has expired
- `uncertain`    what happens to a delivery whose final reply was lost
- `breaker`      whether a failing relay is tried at all
- `concurrency`  how many transactions a relay is given at once
- `shares`       who is served next: priorities, and a fair turn for each sender
"""
