-- Statements of the history store (store/history.py) and of its readers (store/history_reader.py).

-- name: add_message
INSERT INTO message
    (number, id, state, settled_ms, sender, recipients, size_bytes, priority, source, client_address,
     client_name, login, tls, subject, header_from, message_id, mailer, tags, unanswered, power)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)

-- name: add_delivery
INSERT INTO delivery (message, position, address, state, relay, attempts, since_ms, due_ms)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)

-- name: add_attempt
INSERT INTO attempt
    (message, lsn, result, at_ms, relay, attempt, positions, move, state, scope, reply, reason, due_ms,
     took_ms, peer, tls)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)

-- name: add_moved
INSERT INTO moved (message, lsn, at_ms, positions, move, state, actor, reason)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)

-- name: change_message
UPDATE message
SET state = ?2, settled_ms = ?3
WHERE number = ?1

-- name: change_delivery
UPDATE delivery
SET state = ?3, relay = ?4, attempts = ?5, since_ms = ?6, due_ms = ?7
WHERE message = ?1 AND position = ?2

-- name: add_count
INSERT INTO counter (day, relay, kind, count)
VALUES (?1, ?2, ?3, ?4)
ON CONFLICT (day, relay, kind) DO UPDATE SET count = count + ?4

-- name: add_login
INSERT INTO login (name, messages, last_ms)
VALUES (?1, ?2, ?3)
ON CONFLICT (name) DO UPDATE SET messages = messages + ?2, last_ms = max(last_ms, ?3)

-- name: logins
SELECT name, messages, last_ms FROM login

-- name: store_cursor
INSERT INTO cursor (name, lsn)
VALUES (?1, ?2)
ON CONFLICT (name) DO UPDATE SET lsn = ?2

-- name: load_cursor
SELECT lsn FROM cursor WHERE name = ?

-- name: highest_number
SELECT max(number) FROM message

-- name: number_of
SELECT number
FROM message
WHERE number BETWEEN ?1 AND ?1 + 15 AND id = ?2

-- name: taken_numbers
SELECT number
FROM message
WHERE number BETWEEN ?1 AND ?1 + 15

-- name: standing_of
SELECT state, relay, attempts, since_ms, due_ms
FROM delivery
WHERE message = ?
ORDER BY position

-- name: sender_of
SELECT sender FROM message WHERE number = ?

-- name: recipients_of
SELECT recipients FROM message WHERE number = ?

-- name: addresses_of
SELECT address FROM delivery WHERE message = ? ORDER BY position

-- name: search_progress
SELECT through FROM search_progress

-- name: store_search_progress
UPDATE search_progress SET through = ?

-- name: add_search_late
INSERT INTO search_late (number) VALUES (?) ON CONFLICT DO NOTHING

-- name: next_to_search
SELECT number FROM message WHERE number > ? ORDER BY number LIMIT ?

-- name: late_to_search
SELECT number FROM search_late LIMIT ?

-- name: drop_search_late
DELETE FROM search_late WHERE number = ?

-- name: index_message
INSERT INTO search (rowid, sender, recipients, subject, message_id)
SELECT number, sender, recipients, subject, message_id FROM searchable WHERE number = ?

-- name: unindex_message
-- An external content table must be told the words that it is to forget.
INSERT INTO search (search, rowid, sender, recipients, subject, message_id)
SELECT 'delete', number, sender, recipients, subject, message_id FROM searchable WHERE number = ?

-- name: finished_before
SELECT number
FROM message
WHERE number < ?1 AND settled_ms < ?2
  AND (state IN ('delivered', 'captured', 'cancelled', 'discarded', 'suppressed')) = ?3
ORDER BY number
LIMIT ?4

-- name: drop_message
DELETE FROM message WHERE number = ?

-- name: drop_deliveries
DELETE FROM delivery WHERE message = ?

-- name: drop_attempts
DELETE FROM attempt WHERE message = ?

-- name: drop_moved
DELETE FROM moved WHERE message = ?

-- name: load_message
SELECT number, id, state, settled_ms, sender, size_bytes, priority, source, client_address,
       client_name, login, tls, subject, header_from, message_id, mailer, tags, unanswered, power
FROM message
WHERE number BETWEEN ?1 AND ?1 + 15 AND id = ?2

-- name: load_deliveries
SELECT position, address, state, relay, attempts, since_ms, due_ms,
       position >= (SELECT recipients FROM message WHERE number = ?1)
FROM delivery
WHERE message = ?1
ORDER BY position

-- name: load_attempts
SELECT at_ms, relay, attempt, positions, move, state, scope, reply, reason, due_ms, took_ms, peer, tls
FROM attempt
WHERE message = ?
ORDER BY lsn, result

-- name: load_moved
SELECT at_ms, positions, move, state, actor, reason
FROM moved
WHERE message = ?
ORDER BY lsn

-- name: counts_between
SELECT day, relay, kind, count
FROM counter
WHERE day BETWEEN ? AND ?
ORDER BY day, relay, kind

-- name: load_notifiable
SELECT message, standings FROM notifiable WHERE id = ?

-- name: add_notifiable
INSERT INTO notifiable (id, message, standings, waits_since_ms)
VALUES (?, ?, ?, ?)

-- name: change_notifiable
UPDATE notifiable
SET standings = ?2, waits_since_ms = ?3
WHERE id = ?1

-- name: drop_notifiable
DELETE FROM notifiable WHERE id = ?

-- name: drop_notifiable_numbered
DELETE FROM notifiable WHERE id = (SELECT id FROM message WHERE number = ?)

-- name: waiting_notifiable
SELECT id, message, standings, waits_since_ms
FROM notifiable
WHERE waits_since_ms IS NOT NULL AND waits_since_ms <= ?
ORDER BY waits_since_ms
LIMIT ?

-- name: add_pending
INSERT INTO dsn_pending (message, position, kind, at_ms, told)
VALUES (?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING

-- name: withdraw_pending
DELETE FROM dsn_pending WHERE message = ? AND position = ? AND kind = ?

-- name: ripe_pending
SELECT DISTINCT message
FROM dsn_pending
WHERE at_ms <= ?1 OR at_ms > ?2
LIMIT ?3

-- name: pending_of
SELECT told FROM dsn_pending WHERE message = ? ORDER BY at_ms

-- name: add_notice
INSERT INTO dsn_outbox (notice_id, message, at_ms, state, frozen, tries, due_ms)
VALUES (?1, ?2, ?3, ?4, ?5, 0, ?3)
ON CONFLICT DO NOTHING

-- name: next_unsent
SELECT notice_id, at_ms, frozen, tries
FROM dsn_outbox
WHERE state = 'unsent' AND (due_ms <= ?1 OR due_ms > ?2)
ORDER BY due_ms
LIMIT 1

-- name: notice_state
SELECT state FROM dsn_outbox WHERE notice_id = ?

-- name: settle_notice
UPDATE dsn_outbox
SET state = ?2, frozen = x''
WHERE notice_id = ?1 AND state = 'unsent'

-- name: put_off_notice
UPDATE dsn_outbox
SET tries = tries + 1, due_ms = ?2
WHERE notice_id = ?1

-- name: settled_notice
SELECT 1 FROM dsn_outbox WHERE state <> 'unsent' AND at_ms < ? LIMIT 1

-- name: forget_notices
DELETE FROM dsn_outbox
WHERE notice_id IN (SELECT notice_id FROM dsn_outbox WHERE state <> 'unsent' AND at_ms < ? LIMIT ?)
