"""Station 2, the spool: the durability point.

Two logs of the same make. The *mail log* holds what was accepted: intake appends, and writes "250" or "202"
only after `done`. The *ledger* holds what became of it: delivery appends, the reactors read.

The contract of a log, which one suite (`tests/contract/test_log_contract.py`) holds against every adapter:

- A log is a sequence of records of bytes. `append` adds one at the end; appends of one writer are in
  the log in the order of the calls. There is one writer.
- `done` is called exactly once for each record, in a later round of the loop: with its LSN when the record is
  on stable storage, or with an `AppendFault` when it is certain that no reader will ever see it. It comes
  in the order of the appends as long as none is refused. While neither is certain, nobody is told.
- Commits are grouped: what is appended while one is under way goes into the next.
- The *durable mark* is stored before `done` is called. Readers never go beyond it, whatever the files hold.
- After `kill -9`, and after a power cut, everything for which `done` had an LSN is there, once, in
  order, under the same LSN. Of what was appended and not answered, some may be there: the *unanswered*.
- LSNs only grow and are never used for two records. They are places, not counts: there may be gaps.
- `release` gives up what lies below a cursor; a reader below it gets `ReleasedError`. Where something cannot
  be read it gets `CorruptError`, which says where reading goes on. Nothing is skipped in silence.
- `flush` returns when everything appended will outlive the process, durable or not; else `LogUnwell`.

Where to read on:

- `faults`    what is raised
- `records`   what the two logs hold
- `frames`    the bytes of records and batches; why an old frame never comes back to life; the chain's links
- `segments`  files, headers, and how a log is cut without being truncated
- `scan`      looking through a file that nobody vouches for
- `recovery`  what happens before a log is opened
- `spares`    where segments come from and go to
- `commit`, `log`   the writer: group commit, and what happens when the disk says no
- `reader`    the reading end
- `memory`    both ends without a disk
- `content`   files for what is too large for a record
- `levels`    how much room is left
- `verify`    reading without trust, for the command line
- `chain`     whether the ledger is what was written, and what a noted head proves
"""
