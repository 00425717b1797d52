"""Dispatch: a self-hosted outbound mail relay.

Mail flows one way, through five stations; each is a package here, and the words of the
stations are the words of the logs, of the manual and of the command line.

1. `intake`    talks SMTP to clients, admits or refuses each submission, and answers "250"
               only after the message is on stable storage.
2. `spool`     the durability point: two append-only logs of framed records. The *mail log*
               holds what was accepted; the *ledger* holds what became of it.
3. `queue`     takes messages up from the mail log, decides which relay takes which recipient
               and when, and parks what cannot start at once.
4. `relays`    hands messages to upstreams and reports what each recipient was answered.
5. `outcomes`  reads the ledger from a cursor and makes of it history, counters and log lines.

Around them: `mail` (the words), `smtp` and `mime` (the formats, without I/O), `policy` (the
decisions, without I/O), `ports` (what the parts may ask of each other), `store` (databases),
`settings`, `runtime` (processes), `app` (the only place where a port meets an adapter), `cli`.

Start reading at `ports`, then `app`. `docs/architecture.md` is the map with its reasons.
"""

__version__ = "0.1.0"
