INSERT INTO "github_rollup_1min_changes" (key, bucket)
SELECT p.key, p.bucket FROM pg_temp.citus_analytics_pending AS p;

DROP TABLE pg_temp.citus_analytics_pending;

INSERT INTO "github_rollup_1min_changes" (key, bucket)
SELECT DISTINCT t."user_id", t."ingest_time" FROM "github_rollup_1min" AS t
WHERE t."ingest_time" >= (SELECT date_bin(interval '60.000000 seconds', min(s."created_at"), timestamptz '1970-01-01 00:00:00+00') FROM "github_events" AS s);
