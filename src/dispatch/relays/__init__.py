"""Station 4: hand messages to upstreams and report what each recipient was answered.

Every relay implements `ports.Relay`: it is given transactions, asks with `sending` before the end of the
content leaves, and reports once. None of them judges (`policy.verdict` does), retries later or chooses
another relay (the queue does).

- `smart_host`       the settings of an SMTP upstream
- `smtp`             the pool: which connection takes which transaction
- `smtp_dial`        one attempt to get a session, over the hosts and their addresses
- `addresses`        where hosts are, and which of them failed lately
- `race`             one connection to a host, from whichever address gives it first
- `smtp_tls`         TLS to an upstream: trust, handshake, and its failure in words
- `oauth`            what an authorization server is asked for an access token, and what its answer means
- `tokens`           the access token of one relay: fetched, kept, renewed
- `http`             the HTTP client
- `smtp_connection`  one connection: `smtp.client.ClientCore` between a transport and the pool
- `smtp_content`     large content from its file to the transport, off the loop, in blocks
- `capture`          keeps mail in the local inbox instead of sending it
- `capture_store`    that inbox's files
"""
