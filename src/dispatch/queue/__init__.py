"""Station 3, the queue: which message goes to which relay, and when.

The mail log is the buffer and the parked store is the queue. What is taken up from the log is tried
at once if its relay has a free slot, and parked otherwise: priorities, fair shares and due times
live in the parked store, so memory does not grow with the backlog.

Every delivery has one owner at any moment, and ownership moves in one order only:

- *log*: the message stands in the mail log. Its segment cannot go.
- *parked*: `parked.db` has it on stable storage. The commit comes first, then the ledger's `parked`
  record, then the log lets go.
- *settled*: the ledger has its final outcome on stable storage. Only then do the parked row and the
  content go.

No change reaches `parked.db` before the ledger records that explain it are durable, so after a crash
the ledger is always right: ledger beats parked, parked beats log (`recovery`).

- `work`       one transaction to be, and the message it belongs to
- `lane`       one relay with its breaker, its window and what stands ready for it; `pace` its rates, flushes
- `scheduler`  takes up, starts, hears what came of it: the loop in the middle
- `failover`   which relay of its route a delivery goes to; `relief` moves what waits for one that rests
- `settle`     outcomes become records, and deliveries that stay; `moves` says what a record does to one
- `custody`    every step by which a delivery changes its owner
- `book`       the ledger as it is written here
- `parking`    batches of changes to the parked store, and claims from it, on a thread
- `recovery`   what a restart must know; `replay` follows the ledger, `search` looks where that is damaged,
  `resume` acts on it
- `in_hand`    who is being worked on, in memory that outlives the process: finds what kills it; `trial`
- `housekeeping`  checkpoints, released segments, retention, orphaned content, clocks that jumped
- `orders`     list, show, retry, hold, release, cancel, flush, carried out; `requests` are the words for it
- `service`    start to drain; `large_content` is how a content file is handed over
"""
