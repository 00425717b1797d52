-- What senders are to be told (RFC 3464), and what they were told (outcomes/bounce.py).

-- Messages of which something may still have to be told: not delivered everywhere, and with a reverse-path.
-- `message` and `standings` are msgpack; `waits_since_ms` is since when the first recipient waits whose
-- sender has not been told of the delay. Messages from before this migration have no row: nothing is told of
-- them.
CREATE TABLE notifiable (
    id             BLOB NOT NULL PRIMARY KEY,
    message        BLOB NOT NULL,
    standings      BLOB NOT NULL,
    waits_since_ms INTEGER
) WITHOUT ROWID;

CREATE INDEX notifiable_waits ON notifiable (waits_since_ms) WHERE waits_since_ms IS NOT NULL;

-- To be told, waiting for others of the same message. `told` is msgpack.
CREATE TABLE dsn_pending (
    message  BLOB    NOT NULL,
    position INTEGER NOT NULL,
    kind     TEXT    NOT NULL,
    at_ms    INTEGER NOT NULL,
    told     BLOB    NOT NULL,
    PRIMARY KEY (message, position, kind, at_ms)
) WITHOUT ROWID;

CREATE INDEX dsn_pending_at ON dsn_pending (at_ms);

-- One row a notice. `frozen` is msgpack: the message and what is told of it; empty once it is settled.
-- `state`: unsent, sent, given up.
CREATE TABLE dsn_outbox (
    notice_id BLOB    NOT NULL PRIMARY KEY,
    message   BLOB    NOT NULL,
    at_ms     INTEGER NOT NULL,
    state     TEXT    NOT NULL,
    frozen    BLOB    NOT NULL,
    tries     INTEGER NOT NULL,
    due_ms    INTEGER NOT NULL
) WITHOUT ROWID;

CREATE INDEX dsn_outbox_unsent ON dsn_outbox (due_ms) WHERE state = 'unsent';
CREATE INDEX dsn_outbox_settled ON dsn_outbox (at_ms) WHERE state <> 'unsent';
