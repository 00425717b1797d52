"""SMTP, both sides, without I/O: bytes in, events out; decisions in, bytes out.

Nothing here opens a socket, knows the time or draws chance, so every conversation can be played again, byte
by byte. Nothing here decides what a failure means either: that is `policy`.

Shared: `grammar` (what stands between a verb and its CRLF), `body` (content on the wire, both ways).

The server, in the order of its bytes: `lines` (command lines out of what arrives), `commands` (a line to a
typed command), `states` (what is allowed when: the table), `content` (a message on its way in), `server` (the
conversation), `server_auth` (AUTH within it), `sasl` (its mechanisms), `events` (what it tells its driver),
`wording` (its replies), `server_settings`.

The client: `client_preparation` (a transaction to what will be said), `client_commands` (the only place that
writes command lines), `client_content`, `replies` (what the peer says back), `client_extensions` (what it can
do), `client_states`, `client_exchange` (what client and driver tell each other), `client` (the conversation).
"""
