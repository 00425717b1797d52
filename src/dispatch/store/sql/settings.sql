-- Statements of the settings store (store/settings.py).

-- name: entries
SELECT section, name, body
FROM entry
ORDER BY section, position, name

-- name: entry
SELECT body
FROM entry
WHERE section = ?1 AND name = ?2

-- name: put_entry
INSERT INTO entry (section, name, position, body)
VALUES (?1, ?2, (SELECT 1 + coalesce(max(position), 0) FROM entry WHERE section = ?1), ?3)
ON CONFLICT (section, name) DO UPDATE SET body = ?3

-- name: remove_entry
DELETE FROM entry
WHERE section = ?1 AND name = ?2
RETURNING 1

-- name: secrets
SELECT name, sealed
FROM secret
ORDER BY name

-- name: secret
SELECT sealed
FROM secret
WHERE name = ?1

-- name: put_secret
INSERT INTO secret (name, sealed)
VALUES (?1, ?2)
ON CONFLICT (name) DO UPDATE SET sealed = ?2

-- name: remove_secret
DELETE FROM secret
WHERE name = ?1

-- name: suppress
INSERT INTO suppression (address, written, reason, origin, since_ms)
VALUES (?1, ?2, ?3, ?4, ?5)
ON CONFLICT (address) DO NOTHING
RETURNING 1

-- name: unsuppress
DELETE FROM suppression
WHERE address = ?1
RETURNING 1

-- name: suppressions
SELECT address, written, reason, origin, since_ms
FROM suppression
WHERE address > ?1 AND instr(address, ?2)
ORDER BY address
LIMIT ?3

-- name: suppressed_addresses
SELECT address
FROM suppression

-- name: suppressed_count
SELECT count(*)
FROM suppression

-- name: suppression_number
SELECT number
FROM suppression_number

-- name: next_suppression_number
UPDATE suppression_number
SET number = number + 1
