"""The databases: SQLite through `apsw`, which is imported in this package and nowhere else.

- `sqlite`   opening with pragmas, migrations, transactions, and what may go wrong with them
- `numbers`  integer row keys made out of message ids, sorted by time
- `parked`   the queue: deliveries that wait, with their content; only the delivery process opens it.
             Its parts: `changes` (what it is told and tells), `lanes` (whose turn it is: priorities
             and fair shares), `claims` (what is in hand), `queue_list` (finding for a person)
- `history`  what became of each message, for people to look at; only the control process writes it.
             `history_reader` reads it, by the filters of `search`
- `settings` relays, rules and logins that were made by command, and the values of the vault; of control

SQL stands in `sql/*.sql`, one described statement under each name; schemas in
`migrations/<database>/NNNN_*.sql`. Mail data reaches SQL as parameters only.
"""
