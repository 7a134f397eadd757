INSERT INTO "Web Shop"."views by ""hour""_changes" (key, bucket)
SELECT p.key, p.bucket FROM pg_temp.citus_analytics_pending AS p;

DROP TABLE pg_temp.citus_analytics_pending;

INSERT INTO "Web Shop"."views by ""hour""_changes" (key, bucket)
SELECT DISTINCT t."Tenant:Id", t."Bucket" FROM "Web Shop"."views by ""hour""" AS t
WHERE t."Bucket" >= (SELECT date_bin(interval '900.000001 seconds', min(s."key"), timestamptz '1970-01-01 00:00:00+00') FROM "Web Shop"."Page Views" AS s);
