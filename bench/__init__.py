"""The benchmarks: what Dispatch can do, beside Postfix where both can do it.

`python -m bench` (or `make bench`) runs all parts, or those that are named, and prints Markdown; with
`--write docs/figures.md` the page gets them. Root and Debian's packages `postfix` and `stunnel4` are needed.

- `contestants`, `dispatch_relay`, `postfix_relay`: who is measured; `processes`: what they use.
- `load`, `upstream`, `trickle`, `conversation`, `guess`: what is done to them, `tunnel`: by TLS, `logins`: by
  whom; `disks`: where they keep their mail.
- A module for each part: `accept`, `end_to_end`, `tls`, `latency`, `memory`, `backlog`, `hostile`, `auth`,
  `guessing`.
- `parts`: what every part is given; `report`: tables, aims, the page; `machine`: what it was measured on.

`micro_relay` and `micro_spool` measure single pieces, each by a command of its own.

Rules: both relays do the same work on the same disk, in turns, and only when both are at rest; medians with
ranges, and ratios pair by pair, because machines are noisy. Nothing here is a test: a missed aim is a word in
a table.
"""
