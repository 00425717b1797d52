-- What operators configured while the relay ran, and what the vault keeps. No column holds a secret that can be
-- read: they are sealed before they get here (security/vault.py).

-- A table of a repeated section (relays, rules, logins), as it would stand in the file. `body` is a JSON object
-- of its keys; a secret one is an object, {"sealed": "v1.…"}.
CREATE TABLE entry (
    section  TEXT    NOT NULL,
    name     TEXT    NOT NULL,
    position INTEGER NOT NULL,
    body     TEXT    NOT NULL,
    PRIMARY KEY (section, name)
) WITHOUT ROWID;

-- Other values of the vault, sealed under their name.
CREATE TABLE secret (
    name   TEXT NOT NULL PRIMARY KEY,
    sealed TEXT NOT NULL
) WITHOUT ROWID;
