-- Statements of the parked store (store/parked.py).

-- name: park_message
-- Passes over a number that is taken: by the same message, or by another of its millisecond.
INSERT INTO message (number, id, sender, size_bytes, in_file, head)
VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (number) DO NOTHING

-- name: add_displaced
INSERT INTO displaced (id, number) VALUES (?, ?)

-- name: drop_displaced
DELETE FROM displaced WHERE id = ?

-- name: load_displaced
SELECT id, number FROM displaced

-- name: park_content
INSERT INTO content (number, bytes)
VALUES (?, ?)
ON CONFLICT (number) DO NOTHING

-- name: add_delivery
INSERT INTO delivery
    (message, position, lane, state, due_ms, attempts, family, since_ms, reason, uncertain, address)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)

-- name: change_delivery
UPDATE delivery
SET lane = ?3, state = ?4, due_ms = ?5, attempts = ?6, family = ?7, since_ms = ?8, reason = ?9,
    uncertain = ?10
WHERE message = ?1 AND position = ?2

-- name: standing
-- Lane and state of a delivery, before it is changed.
SELECT lane, state
FROM delivery
WHERE message = ? AND position = ?

-- name: number_of
SELECT number
FROM message
WHERE number = ? AND id = ?

-- name: taken_numbers
SELECT number
FROM message
WHERE number BETWEEN ?1 AND ?1 + 15

-- name: settle_delivery
DELETE FROM delivery
WHERE message = ? AND position = ?
RETURNING message, lane, state

-- name: drop_message
-- With its last delivery only. The head is wanted where it names a content file.
DELETE FROM message
WHERE number = ?1 AND NOT EXISTS (SELECT 1 FROM delivery WHERE message = ?1)
RETURNING number, id, CASE WHEN in_file THEN head END

-- name: drop_content
DELETE FROM content
WHERE number = ?

-- name: store_lsn
UPDATE ledger SET lsn = ?

-- name: load_lsn
SELECT lsn FROM ledger

-- name: add_lane
INSERT INTO lane (number, relay, priority, share) VALUES (?, ?, ?, ?)

-- name: drop_lane
DELETE FROM lane WHERE number = ?

-- name: drop_tally
DELETE FROM tally WHERE lane = ?

-- name: store_tally
INSERT INTO tally (lane, state, deliveries)
VALUES (?1, ?2, ?3)
ON CONFLICT (lane, state) DO UPDATE SET deliveries = ?3

-- name: load_lanes
-- Each lane with the time its first delivery is due.
SELECT number, relay, priority, share,
       (SELECT min(due_ms) FROM delivery WHERE lane = lane.number AND state = 'waiting')
FROM lane

-- name: load_tallies
SELECT lane, state, deliveries
FROM tally
WHERE deliveries > 0

-- name: walk_lane
-- Waiting deliveries of a lane behind a place, in the order of their due times.
SELECT due_ms, message, position
FROM delivery
WHERE lane = ? AND state = 'waiting' AND (due_ms, message, position) > (?, ?, ?)
ORDER BY due_ms, message, position

-- name: waiting_of
-- Where the waiting deliveries of a message stand in their lanes.
SELECT lane, due_ms, position
FROM delivery
WHERE message = ? AND state = 'waiting'

-- name: waiting_at_a_relay
-- The waiting deliveries of a message with where they stand, for claiming it out of turn.
SELECT lane, relay, position
FROM delivery
JOIN lane ON lane.number = delivery.lane
WHERE message = ? AND state = 'waiting'

-- name: due_of
-- All deliveries of a message that can go in one transaction with the one that was picked. A plus
-- keeps the planner from walking along the whole lane to find a handful of rows it has the key of.
SELECT position, due_ms, attempts, family, since_ms, reason, uncertain
FROM delivery
WHERE message = ? AND +lane = ? AND state = 'waiting' AND +due_ms <= ?

-- name: load_with_content
SELECT head, bytes
FROM message
LEFT JOIN content USING (number)
WHERE number = ?

-- name: change_head
UPDATE message
SET head = ?
WHERE number = ?

-- name: load_head
SELECT head
FROM message
WHERE number = ?

-- name: load_content
SELECT bytes
FROM content
WHERE number = ?

-- name: deliveries_of
SELECT position, state, relay, due_ms, attempts, family, since_ms, reason, uncertain
FROM delivery
JOIN lane ON lane.number = delivery.lane
WHERE message = ?

-- name: queue_ids
-- Messages with a delivery that is not at its end, a page at a time.
SELECT number, id
FROM message
WHERE number > ?
  AND EXISTS (
      SELECT 1 FROM delivery
      WHERE message = number AND state NOT IN ('bounced', 'expired', 'gave up'))
ORDER BY number
LIMIT ?

-- name: reclamp
UPDATE delivery
SET due_ms = ?1
WHERE due_ms > ?1 AND state NOT IN ('bounced', 'expired', 'gave up')

-- name: failed_before
SELECT id, position
FROM delivery
JOIN message ON message.number = delivery.message
WHERE delivery.state IN ('bounced', 'expired', 'gave up') AND due_ms < ?
ORDER BY due_ms
LIMIT ?
