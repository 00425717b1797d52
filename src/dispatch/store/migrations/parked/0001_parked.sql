-- The queue. `number` is made out of the message id (store/numbers.py).

-- Which deliveries take turns with each other: those of one relay and one priority. Within, each
-- lane is one fair share (a login or a client's address).
CREATE TABLE lane (
    number   INTEGER PRIMARY KEY,
    relay    TEXT    NOT NULL,
    priority INTEGER NOT NULL,
    share    TEXT    NOT NULL,
    UNIQUE (relay, priority, share)
);

-- Counted with every change, so that nobody ever has to count rows.
CREATE TABLE tally (
    lane       INTEGER NOT NULL,
    state      TEXT    NOT NULL,
    deliveries INTEGER NOT NULL,
    PRIMARY KEY (lane, state)
) WITHOUT ROWID;

CREATE TABLE message (
    number     INTEGER PRIMARY KEY,
    id         BLOB    NOT NULL,
    sender     TEXT    NOT NULL,
    size_bytes INTEGER NOT NULL,
    in_file    INTEGER NOT NULL,
    head       BLOB    NOT NULL
);

-- Messages whose first number another one of their millisecond had: nearly always none.
CREATE TABLE displaced (
    id     BLOB PRIMARY KEY,
    number INTEGER NOT NULL
) WITHOUT ROWID;

-- Apart from its message: a list of the queue reads no content.
CREATE TABLE content (
    number INTEGER PRIMARY KEY,
    bytes  BLOB NOT NULL
);

CREATE TABLE delivery (
    message   INTEGER NOT NULL,
    position  INTEGER NOT NULL,
    lane      INTEGER NOT NULL,
    state     TEXT    NOT NULL,
    due_ms    INTEGER NOT NULL,
    attempts  INTEGER NOT NULL,
    family    INTEGER NOT NULL,
    since_ms  INTEGER NOT NULL,
    reason    TEXT    NOT NULL,
    uncertain INTEGER NOT NULL,
    address   TEXT    NOT NULL,
    PRIMARY KEY (message, position)
) WITHOUT ROWID;

-- What a claim walks along: the due ones of a lane, oldest first.
CREATE INDEX delivery_due ON delivery (lane, due_ms) WHERE state = 'waiting';

-- What retention walks along: the due time of a failed one is when it failed.
CREATE INDEX delivery_failed ON delivery (due_ms) WHERE state IN ('bounced', 'expired', 'gave up');

-- How far the ledger is reflected in these rows.
CREATE TABLE ledger (lsn INTEGER NOT NULL);
INSERT INTO ledger VALUES (0);
