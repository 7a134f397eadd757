DO $citus$
BEGIN
  IF EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'citus') THEN
    PERFORM set_config('citus.multi_shard_modify_mode', 'sequential', true);
  END IF;
END
$citus$;

DO $keep$
BEGIN
  CREATE TEMPORARY TABLE citus_analytics_pending (key UUID, bucket timestamptz);
  IF to_regclass('"Web Shop"."views by ""hour""_changes"') IS NOT NULL THEN
    INSERT INTO pg_temp.citus_analytics_pending (key, bucket)
    SELECT DISTINCT unnest(coalesce(c.keys, ARRAY[c.key])), c.bucket FROM "Web Shop"."views by ""hour""_changes" AS c;
  END IF;
END
$keep$;
