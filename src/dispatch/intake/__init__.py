"""Station 1, intake: admits or refuses, makes durable, acknowledges. No upstream, no database, nothing slow.

- `accepting`     connections from a listening socket, also while the machine has none to give
- `listener`      connection counts, time limits: asyncio's side of a connection
- `proxy_header`  who the client is, where a proxy says so before the client's first byte
- `smtp_session`  one client's conversation: the sans-IO core asks, admission policy answers
- `incoming`      the content of one submission while it arrives: in memory, or spilled to a file
- `acceptance`    a whole submission becomes a record of the mail log, and an answer
- `submit`        the private socket: what our own processes hand in
- `http`          the door of programs: the message API, and its keys
- `service`       the process's composition: settings, disk level, listeners, drain

The rule of the station: a positive answer to the end of data is written only from the callback that says
the record is on stable storage, and nothing that was refused or cut leaves a trace in the log.
"""
