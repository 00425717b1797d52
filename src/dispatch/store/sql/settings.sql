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
