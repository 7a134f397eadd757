"""The tutorial's SQL, verbatim."""

from __future__ import annotations

CREATE_TABLES = """
CREATE TABLE github_events
(
    event_id bigint,
    event_type text,
    event_public boolean,
    repo_id bigint,
    payload jsonb,
    repo jsonb,
    user_id bigint,
    org jsonb,
    created_at timestamp with time zone
);

CREATE TABLE github_users
(
    user_id bigint,
    url text,
    login text,
    avatar_url text,
    gravatar_id text,
    display_login text
);

CREATE INDEX event_type_index ON github_events (event_type);
CREATE INDEX payload_index ON github_events USING GIN (payload jsonb_path_ops);

-- sum of events per repo per user per minute
CREATE TABLE github_rollup_1min
(
    event_type text,
    repo_id bigint,
    user_id bigint,
    total_events bigint,
    ingest_time TIMESTAMPTZ
);

-- last invoked time
CREATE TABLE latest_rollup (
  minute timestamptz PRIMARY KEY,

  CHECK (minute = date_trunc('minute', minute))
);
"""

DISTRIBUTE_TABLES = """
SELECT create_distributed_table('github_events', 'user_id');
SELECT create_distributed_table('github_users', 'user_id');
SELECT create_distributed_table('github_rollup_1min', 'user_id');
"""

COPY = r"""
\copy github_events from 'events.csv' WITH CSV
\copy github_users from 'users.csv' WITH CSV
"""

COUNT = """
SELECT count(*) from github_events;
"""

COMMITS_PER_HOUR = """
SELECT date_trunc('hour', created_at) AS hour,
       sum((payload->>'distinct_size')::int) AS num_commits
FROM github_events
WHERE event_type = 'PushEvent'
GROUP BY hour
ORDER BY hour;
"""

REPOSITORY_CREATORS = """
SELECT login, count(*)
FROM github_events ge
JOIN github_users gu
ON ge.user_id = gu.user_id
WHERE event_type = 'CreateEvent' AND
      payload @> '{"ref_type": "repository"}'
GROUP BY login
ORDER BY count(*) DESC;
"""

INITIALIZE = """
-- initialize to a time long ago
INSERT INTO latest_rollup VALUES ('10-10-1901');
"""

FUNCTION = """
-- create rollup function
CREATE OR REPLACE FUNCTION rollup_http_request() RETURNS void AS $$
DECLARE
  curr_rollup_time timestamptz := date_trunc('minute', now());
  last_rollup_time timestamptz := minute from latest_rollup;
BEGIN
  INSERT INTO github_rollup_1min (
    event_type,repo_id,user_id,total_events,ingest_time
  ) SELECT
    event_type,
    repo_id,
    user_id,
    count(1) AS total_events,
    date_trunc('minute', created_at) AS ingest_minute
    FROM github_events 
  -- roll up only data new since last_rollup_time
  WHERE date_trunc('minute', created_at) <@
          tstzrange(last_rollup_time, curr_rollup_time, '(]')
  GROUP BY event_type,repo_id,user_id,ingest_minute
  ORDER BY user_id,event_type;

  -- update the value in latest_rollup so that next time we run the
  -- rollup it will operate on data newer than curr_rollup_time
  UPDATE latest_rollup SET minute = curr_rollup_time;
END;
$$ LANGUAGE plpgsql;
"""

RUN = """
SELECT rollup_http_request();
"""

MOST_ACTIVE_USERS = """
SELECT user_id,ingest_time,sum(total_events)
FROM github_rollup_1min 
GROUP by 1,2 
ORDER by 3 desc 
LIMIT 5;
"""
