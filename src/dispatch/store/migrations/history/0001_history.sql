-- What became of each message. `number` is made out of the message id (store/numbers.py): the
-- table is its own index on the id, sorted by time.

CREATE TABLE message (
    number         INTEGER PRIMARY KEY,
    id             BLOB    NOT NULL,
    state          TEXT    NOT NULL,
    settled_ms     INTEGER,
    sender         TEXT    NOT NULL,
    recipients     INTEGER NOT NULL,
    size_bytes     INTEGER NOT NULL,
    priority       TEXT    NOT NULL,
    source         TEXT    NOT NULL,
    client_address TEXT    NOT NULL,
    client_name    TEXT    NOT NULL,
    login          TEXT,
    tls            TEXT,
    subject        TEXT    NOT NULL,
    header_from    TEXT    NOT NULL,
    message_id     TEXT    NOT NULL,
    mailer         TEXT    NOT NULL,
    tags           TEXT    NOT NULL,
    unanswered     INTEGER NOT NULL,
    power          INTEGER NOT NULL
);

-- Few messages are neither delivered nor captured, and those are the ones that people look for.
CREATE INDEX message_unusual ON message (number, state) WHERE state NOT IN ('delivered', 'captured');

CREATE TABLE delivery (
    message  INTEGER NOT NULL,
    position INTEGER NOT NULL,
    address  TEXT    NOT NULL,
    state    TEXT    NOT NULL,
    relay    TEXT    NOT NULL,
    attempts INTEGER NOT NULL,
    since_ms INTEGER NOT NULL,
    due_ms   INTEGER,
    PRIMARY KEY (message, position)
) WITHOUT ROWID;

-- One row for those recipients of a transaction that were answered alike.
CREATE TABLE attempt (
    message   INTEGER NOT NULL,
    lsn       INTEGER NOT NULL,
    result    INTEGER NOT NULL,
    at_ms     INTEGER NOT NULL,
    relay     TEXT    NOT NULL,
    attempt   INTEGER NOT NULL,
    positions TEXT    NOT NULL,
    move      TEXT    NOT NULL,
    state     TEXT    NOT NULL,
    scope     TEXT    NOT NULL,
    reply     TEXT,
    reason    TEXT    NOT NULL,
    due_ms    INTEGER,
    took_ms   INTEGER NOT NULL,
    peer      TEXT    NOT NULL,
    tls       TEXT,
    PRIMARY KEY (message, lsn, result)
) WITHOUT ROWID;

-- What a person or a policy did.
CREATE TABLE moved (
    message   INTEGER NOT NULL,
    lsn       INTEGER NOT NULL,
    at_ms     INTEGER NOT NULL,
    positions TEXT    NOT NULL,
    move      TEXT    NOT NULL,
    state     TEXT    NOT NULL,
    actor     TEXT    NOT NULL,
    reason    TEXT    NOT NULL,
    PRIMARY KEY (message, lsn)
) WITHOUT ROWID;

-- `day` is days since 1970, UTC. Independent of how long messages are kept.
CREATE TABLE counter (
    day   INTEGER NOT NULL,
    relay TEXT    NOT NULL,
    kind  TEXT    NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (day, relay, kind)
) WITHOUT ROWID;

-- How far each reader of a log has come: written in the transaction of what it wrote.
CREATE TABLE cursor (
    name TEXT PRIMARY KEY,
    lsn  INTEGER NOT NULL
) WITHOUT ROWID;

CREATE VIEW searchable AS
SELECT number,
       sender,
       (SELECT group_concat(address, ' ' ORDER BY position) FROM delivery WHERE message = number) AS recipients,
       subject,
       message_id
FROM message;

CREATE VIRTUAL TABLE search USING fts5 (
    sender, recipients, subject, message_id,
    content = 'searchable', content_rowid = 'number', columnsize = 0,
    tokenize = 'unicode61 remove_diacritics 2'
);

-- Filled when there is time: messages up to `through` are in `search`, but for those in `search_late`.
CREATE TABLE search_progress (through INTEGER NOT NULL);
INSERT INTO search_progress VALUES (-1);
CREATE TABLE search_late (number INTEGER PRIMARY KEY);
