-- Addresses that must not be tried.

-- `address` in the one writing in which addresses are compared, `written` as it was given. `origin` is who put it
-- there: operator, …; `since_ms` wall clock, milliseconds since 1970.
CREATE TABLE suppression (
    address  TEXT    NOT NULL PRIMARY KEY,
    written  TEXT    NOT NULL,
    reason   TEXT    NOT NULL,
    origin   TEXT    NOT NULL,
    since_ms INTEGER NOT NULL
) WITHOUT ROWID;

-- One row: the number of the list, one more with each change. What is published carries it.
CREATE TABLE suppression_number (
    number INTEGER NOT NULL
);

INSERT INTO suppression_number (number) VALUES (0);
