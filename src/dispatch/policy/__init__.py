"""The decisions: pure functions and small machines that are told the facts and answer.

Time, chance and everything that had to be looked up are arguments; nothing here waits, opens or
asks. That is why each decision stands in one file, has a table where a table will do, and is
proven by tests that need no machine.

- `admission`    which submissions are refused, in which order of checks, with which words
- `limits`       how many messages may come in a time: rates, and a bucket for each address or login
- `logins`       what one login may do, and lists of addresses
- `local_names`  who `root` is, and what bare addresses are completed to
- `patterns`     patterns of addresses, as rules have them
- `conditions`   what a rule may ask beside sender and recipient; `windows` of time among it
- `routing`      which way a recipient's mail takes, and the rule that said so; fast by `route_index`
- `verdict`      what a relay's replies and faults mean for each recipient: the only file that decides it
- `schedule`     when a deferred delivery is tried again, and when it has expired
- `uncertain`    what happens to a delivery whose final reply was lost
- `breaker`      whether a failing relay is tried at all
- `concurrency`  how many transactions a relay is given at once
- `shares`       who is served next: priorities, and a fair turn for each sender
"""
