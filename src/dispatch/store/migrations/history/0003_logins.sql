-- What was kept of each login since this table is here; how long messages are kept does not change it.

CREATE TABLE login (
    name     TEXT    PRIMARY KEY,
    messages INTEGER NOT NULL,
    last_ms  INTEGER NOT NULL
) WITHOUT ROWID;
