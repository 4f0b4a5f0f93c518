"""Named SQL of the tasks of asynchronous services, for the courier's driver and for the controller's.

A task is *pending* (no lease), *running* (leased) or *done* (``finished_at``). ``due_at`` is when it may be claimed: a
lease moves it to its own end, so that a lease that is not renewed ends by itself, and a task that waits for another
try is just one that is due later. Every write about a claimed task names the lease under which it was claimed, and a
claim changes it: what a courier says that has lost its lease changes nothing. Times are the database's own.
"""

from __future__ import annotations

# Of the session-level advisory locks: (LOCK_CLASS, number of a living courier), and (LOCK_CLASS, 0) of who keeps house.
LOCK_CLASS = 0x6D77

INSERT = """
INSERT INTO tasks (id, uid, request, body, webhook) VALUES (%s, %s, %s, %s, %s) ON CONFLICT (id) DO NOTHING"""

# Up to `limit` open tasks, no more than that are counted.
COUNT_OPEN = """
SELECT count(*) FROM (SELECT 1 FROM tasks WHERE uid = %(uid)s AND finished_at IS NULL LIMIT %(limit)s) AS open"""

CLAIM = """
WITH due AS (
    SELECT id FROM tasks WHERE uid = %(uid)s AND finished_at IS NULL AND due_at <= now()
    ORDER BY due_at, seq LIMIT %(limit)s FOR UPDATE SKIP LOCKED
)
UPDATE tasks SET lease = %(lease)s, attempts = attempts + 1,
    leased_until = now() + make_interval(secs => %(seconds)s), due_at = now() + make_interval(secs => %(seconds)s)
FROM due WHERE tasks.id = due.id
RETURNING tasks.id, tasks.attempts, tasks.request, tasks.body"""

# Answers the ids whose lease was still held.
RENEW = """
UPDATE tasks SET leased_until = now() + make_interval(secs => held.seconds),
    due_at = now() + make_interval(secs => held.seconds)
FROM unnest(%s::text[], %s::text[], %s::float8[]) AS held (id, lease, seconds)
WHERE tasks.id = held.id AND tasks.lease = held.lease AND tasks.finished_at IS NULL
RETURNING tasks.id"""

# `refund`: 1 when the task was not at fault for the attempt, and it does not count.
RELEASE = """
UPDATE tasks SET lease = NULL, leased_until = NULL, attempts = attempts - %(refund)s,
    due_at = now() + make_interval(secs => %(delay)s)
WHERE id = %(id)s AND lease = %(lease)s AND finished_at IS NULL"""

# A request is done with: what is kept is its result.
FINISH = """
UPDATE tasks SET finished_at = now(), lease = NULL, leased_until = NULL, body = '', status = %(status)s,
    answer = %(answer)s, result = %(result)s, expires_at = now() + make_interval(secs => %(ttl)s),
    notify_at = CASE WHEN webhook IS NULL THEN NULL ELSE now() END
WHERE id = %(id)s AND lease = %(lease)s AND finished_at IS NULL"""

# A pending task only. Nobody is told of it.
CANCEL = """
UPDATE tasks SET finished_at = now(), body = '', status = %(status)s, answer = %(answer)s, result = %(result)s,
    expires_at = now() + make_interval(secs => %(ttl)s), webhook = NULL
WHERE id = %(id)s AND uid = %(uid)s AND lease IS NULL AND finished_at IS NULL
RETURNING id"""

# Leases whose courier lives no more end at once, and the attempt does not count: it was not the task's fault. Not right
# after a start of the database, when couriers that live have yet to come back.
REAP = """
UPDATE tasks SET lease = NULL, leased_until = NULL, due_at = now(), attempts = greatest(attempts - 1, 0)
WHERE uid = ANY(%(uids)s) AND finished_at IS NULL AND due_at > now() AND lease IS NOT NULL
    AND now() - pg_postmaster_start_time() > interval '10 s'
    AND split_part(lease, '-', 1) <> ALL(%(living)s)"""

LIVING = """
SELECT DISTINCT objid::bigint FROM pg_locks
WHERE locktype = 'advisory' AND classid = %s AND objid > 0 AND objsubid = 2 AND granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""

_STATE = """CASE WHEN finished_at IS NOT NULL THEN 'done' WHEN lease IS NOT NULL THEN 'running' ELSE 'pending' END"""
STATE_COLUMNS = f"""id, {_STATE} AS state, attempts, created_at, finished_at, expires_at, status"""
GET = f"SELECT {STATE_COLUMNS} FROM tasks WHERE uid = %(uid)s AND id = %(id)s"
GET_RESULT = "SELECT status, answer, result FROM tasks WHERE uid = %s AND id = %s AND finished_at IS NOT NULL"
STATES = f"SELECT id, {_STATE}, attempts FROM tasks WHERE id = ANY(%s)"

# The newest first, before `before` (a seq; NULL: from the newest on), of one state or of all.
LIST = f"""
SELECT seq, {STATE_COLUMNS} FROM tasks
WHERE uid = %(uid)s AND (%(before)s::bigint IS NULL OR seq < %(before)s)
    AND (%(state)s::text IS NULL OR {_STATE} = %(state)s)
ORDER BY seq DESC LIMIT %(limit)s"""

COUNTS = """
SELECT count(*) FILTER (WHERE finished_at IS NULL AND lease IS NULL) AS pending,
    count(*) FILTER (WHERE finished_at IS NULL AND lease IS NOT NULL) AS running,
    count(*) FILTER (WHERE finished_at IS NOT NULL AND status < 400) AS succeeded,
    count(*) FILTER (WHERE finished_at IS NOT NULL AND status >= 400) AS failed,
    extract(epoch FROM now() - min(created_at) FILTER (WHERE finished_at IS NULL AND lease IS NULL))::float8 AS oldest
FROM tasks WHERE uid = %(uid)s"""

# Of many services at once, open tasks alone: this is asked every second.
DEPTHS = """
SELECT uid, count(*) FILTER (WHERE lease IS NULL), count(*) FILTER (WHERE lease IS NOT NULL),
    coalesce(extract(epoch FROM now() - min(created_at) FILTER (WHERE lease IS NULL)), 0)::float8
FROM tasks WHERE uid = ANY(%s) AND finished_at IS NULL GROUP BY uid"""

EXPIRE = """
DELETE FROM tasks WHERE id IN (SELECT id FROM tasks WHERE expires_at < now() LIMIT %s FOR UPDATE SKIP LOCKED)"""

# Of services that are no more; a batch of them.
REMOVE_ORPHANS = """
DELETE FROM tasks WHERE id IN (
    SELECT id FROM tasks WHERE NOT EXISTS (SELECT 1 FROM resources WHERE resources.uid = tasks.uid)
    LIMIT %s FOR UPDATE SKIP LOCKED
)"""

# Webhooks that are due, each hidden from the others for a minute; none of the services that are called enough now.
CLAIM_NOTICES = """
UPDATE tasks SET notify_at = now() + interval '60 s', notices = notices + 1
WHERE id IN (
    SELECT id FROM tasks WHERE notify_at <= now() AND uid <> ALL(%(full)s::text[])
    ORDER BY notify_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED
)
RETURNING id, uid, webhook, notices, status, answer, result"""

# `delay` NULL: told, or given up.
SETTLE_NOTICE = """
UPDATE tasks SET notify_at = now() + make_interval(secs => %(delay)s::float8) WHERE id = %(id)s"""
