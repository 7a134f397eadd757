DO $citus$
BEGIN
  IF EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'citus') THEN
    PERFORM set_config('citus.multi_shard_modify_mode', 'sequential', true);
    PERFORM set_config('citus.enable_unsafe_triggers', 'on', true);
  END IF;
END
$citus$;

DO $check$
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION USING MESSAGE = format('rollup %s has to be created under READ COMMITTED: under another isolation level rows that others have just committed would be missed.', '"github_rollup_1min"'), ERRCODE = 'CAREF';
    END IF;
    IF EXISTS (SELECT FROM pg_catalog.pg_attribute AS a WHERE ((a.attrelid = '"github_events"'::regclass AND a.attname = 'created_at') OR (a.attrelid = '"github_rollup_1min"'::regclass AND a.attname = 'ingest_time') OR (a.attrelid = '"latest_rollup"'::regclass AND a.attname = 'minute'))
               AND a.atttypid <> 'pg_catalog.timestamptz'::regtype) THEN
        RAISE EXCEPTION USING MESSAGE = format('rollup %s needs timestamp with time zone for %s, %s and %s: without a zone a bucket would depend on the session.', '"github_rollup_1min"', '"created_at"', '"ingest_time"', '"minute"'), ERRCODE = 'CAREF';
    END IF;
    IF NOT EXISTS (
        SELECT FROM pg_catalog.pg_index AS i
        WHERE i.indrelid = '"github_rollup_1min"'::regclass AND i.indisunique
          AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
          AND (SELECT pg_catalog.array_agg(a.attname::text) FROM pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY AS k (number, place)
              JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.number
              WHERE k.place <= i.indnkeyatts) @> ARRAY['user_id', 'ingest_time', 'event_type', 'repo_id']
          AND (SELECT pg_catalog.array_agg(a.attname::text) FROM pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY AS k (number, place)
              JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.number
              WHERE k.place <= i.indnkeyatts) <@ ARRAY['user_id', 'ingest_time', 'event_type', 'repo_id']
          AND (i.indnullsnotdistinct OR NOT EXISTS (
            SELECT FROM pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY AS k (number, place)
              JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.number
              WHERE k.place <= i.indnkeyatts AND NOT a.attnotnull
              AND a.attname <> 'ingest_time'))) THEN
        RAISE EXCEPTION USING MESSAGE = format('rollup %s needs a primary key or unique index on %s, %s, %s, %s alone, with NULLS NOT DISTINCT if one of them may be NULL: it keeps one row a group.', '"github_rollup_1min"', '"user_id"', '"ingest_time"', '"event_type"', '"repo_id"'), ERRCODE = 'CAREF';
    END IF;
END
$check$;

DO $citus$
BEGIN
  IF EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'citus') THEN
    IF (SELECT colocationid FROM pg_catalog.pg_dist_partition
        WHERE logicalrelid = '"github_events"'::regclass) IS DISTINCT FROM
        (SELECT colocationid FROM pg_catalog.pg_dist_partition
        WHERE logicalrelid = '"github_rollup_1min"'::regclass) THEN
        RAISE EXCEPTION USING MESSAGE = format('rollup %s has to be colocated with its source %s: distribute it by the same column, with colocate_with.', '"github_rollup_1min"', '"github_events"'), ERRCODE = 'CAREF';
    END IF;
  END IF;
END
$citus$;

CREATE TABLE "github_rollup_1min_changes" (
  key BIGINT,
  bucket timestamptz NOT NULL,
  keys BIGINT[]
) WITH (toast_tuple_target = 128, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

ALTER TABLE "github_rollup_1min_changes" ALTER COLUMN keys SET STORAGE EXTERNAL;

CREATE TABLE "github_rollup_1min_outcome" (
  key BIGINT,
  groups_written bigint NOT NULL,
  groups_removed bigint NOT NULL,
  since timestamptz NOT NULL,
  until timestamptz NOT NULL
);

DO $citus$
BEGIN
  IF EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'citus') THEN
    IF EXISTS (SELECT FROM pg_catalog.pg_dist_partition
               WHERE logicalrelid = '"github_events"'::regclass) THEN
      PERFORM create_distributed_table('"github_rollup_1min_changes"', 'key',
        colocate_with => '"github_events"');
      PERFORM create_distributed_table('"github_rollup_1min_outcome"', 'key',
        colocate_with => '"github_events"');
    END IF;
  END IF;
END
$citus$;

CREATE FUNCTION "github_rollup_1min_colocated"(relation oid, wanted regclass)
RETURNS text LANGUAGE plpgsql STABLE AS $function$
-- The shard of `wanted` that is colocated with the shard `relation`; outside of a shard, `wanted`.
DECLARE
  own bigint;
  shard text;
BEGIN
  IF to_regclass('pg_catalog.pg_dist_shard') IS NOT NULL THEN
    SELECT s.shardid INTO own FROM pg_dist_shard AS s
    WHERE s.shardid = (SELECT substring(relname FROM '_([0-9]+)$')::bigint
                       FROM pg_class WHERE oid = relation)
      AND to_regclass(shard_name(s.logicalrelid, s.shardid)) = relation;
  END IF;
  IF own IS NULL THEN
    RETURN wanted::text;
  END IF;
  SELECT shard_name(other.logicalrelid, other.shardid) INTO shard
  FROM pg_dist_shard AS s
  JOIN pg_dist_partition AS p ON p.logicalrelid = s.logicalrelid
  JOIN pg_dist_partition AS q ON q.colocationid = p.colocationid AND q.logicalrelid = wanted
  JOIN pg_dist_shard AS other ON other.logicalrelid = wanted
    AND other.shardminvalue IS NOT DISTINCT FROM s.shardminvalue
  WHERE s.shardid = own;
  IF shard IS NULL THEN
    RAISE EXCEPTION 'table % is not colocated with %, whose shard % has no sibling of it',
      wanted, (SELECT logicalrelid FROM pg_dist_shard WHERE shardid = own), own;
  END IF;
  RETURN shard;
END
$function$;

CREATE FUNCTION "github_rollup_1min_capture"()
RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET jit = off SET enable_hashagg = off AS $function$
-- Sorting, unlike hashing, holds the keys of one bucket at a time, however large the statement.
DECLARE
  changes text := "github_rollup_1min_colocated"(TG_RELID, '"github_rollup_1min_changes"'::regclass);
  sharded boolean := changes <> '"github_rollup_1min_changes"'::regclass::text;
BEGIN
  -- It has its owner's rights: on tables of others it would run what their types cast with.
  IF "github_rollup_1min_colocated"(TG_RELID, '"github_events"'::regclass)::regclass <> TG_RELID THEN
    RAISE EXCEPTION 'this trigger function is for another table than %', TG_RELID::regclass;
  END IF;
  IF TG_OP = 'INSERT' AND NOT sharded THEN
    INSERT INTO "github_rollup_1min_changes" (bucket, keys)
    SELECT bucket, array_agg(key) FROM (
      SELECT DISTINCT bucket, key FROM (SELECT date_bin(interval '60.000000 seconds', r."created_at", timestamptz '1970-01-01 00:00:00+00') AS bucket, r."user_id" AS key FROM added AS r WHERE isfinite(r."created_at")) AS changed
    ) AS once GROUP BY bucket;
  ELSIF TG_OP = 'INSERT' THEN
    EXECUTE format($log$
      INSERT INTO %1$s (bucket, key)
      SELECT DISTINCT bucket, key FROM (SELECT date_bin(interval '60.000000 seconds', r."created_at", timestamptz '1970-01-01 00:00:00+00') AS bucket, r."user_id" AS key FROM added AS r WHERE isfinite(r."created_at")) AS changed
    $log$, changes);
  ELSIF TG_OP = 'UPDATE' AND NOT sharded THEN
    INSERT INTO "github_rollup_1min_changes" (bucket, keys)
    SELECT bucket, array_agg(key) FROM (
      SELECT DISTINCT bucket, key FROM (SELECT date_bin(interval '60.000000 seconds', r."created_at", timestamptz '1970-01-01 00:00:00+00') AS bucket, r."user_id" AS key FROM added AS r WHERE isfinite(r."created_at") UNION SELECT date_bin(interval '60.000000 seconds', r."created_at", timestamptz '1970-01-01 00:00:00+00') AS bucket, r."user_id" AS key FROM removed AS r WHERE isfinite(r."created_at")) AS changed
    ) AS once GROUP BY bucket;
  ELSIF TG_OP = 'UPDATE' THEN
    EXECUTE format($log$
      INSERT INTO %1$s (bucket, key)
      SELECT DISTINCT bucket, key FROM (SELECT date_bin(interval '60.000000 seconds', r."created_at", timestamptz '1970-01-01 00:00:00+00') AS bucket, r."user_id" AS key FROM added AS r WHERE isfinite(r."created_at") UNION SELECT date_bin(interval '60.000000 seconds', r."created_at", timestamptz '1970-01-01 00:00:00+00') AS bucket, r."user_id" AS key FROM removed AS r WHERE isfinite(r."created_at")) AS changed
    $log$, changes);
  ELSIF TG_OP = 'DELETE' AND NOT sharded THEN
    INSERT INTO "github_rollup_1min_changes" (bucket, keys)
    SELECT bucket, array_agg(key) FROM (
      SELECT DISTINCT bucket, key FROM (SELECT date_bin(interval '60.000000 seconds', r."created_at", timestamptz '1970-01-01 00:00:00+00') AS bucket, r."user_id" AS key FROM removed AS r WHERE isfinite(r."created_at")) AS changed
    ) AS once GROUP BY bucket;
  ELSIF TG_OP = 'DELETE' THEN
    EXECUTE format($log$
      INSERT INTO %1$s (bucket, key)
      SELECT DISTINCT bucket, key FROM (SELECT date_bin(interval '60.000000 seconds', r."created_at", timestamptz '1970-01-01 00:00:00+00') AS bucket, r."user_id" AS key FROM removed AS r WHERE isfinite(r."created_at")) AS changed
    $log$, changes);
  ELSIF NOT sharded THEN
    -- A shard is truncated only after the whole table has been logged here.
    IF EXISTS (SELECT FROM pg_extension WHERE extname = 'citus') THEN
      -- Citus truncates from the coordinator: no run may add a group between here and there.
      LOCK TABLE "latest_rollup" IN SHARE ROW EXCLUSIVE MODE;
    END IF;
    INSERT INTO "github_rollup_1min_changes" (key, bucket)
    SELECT DISTINCT t."user_id", t."ingest_time"
    FROM "github_rollup_1min" AS t;
  END IF;
  RETURN NULL;
END
$function$;

CREATE FUNCTION "github_rollup_1min_absorb"()
RETURNS trigger LANGUAGE plpgsql SET jit = off SET enable_nestloop = on SET enable_hashjoin = on SET enable_mergejoin = on SET enable_seqscan = on AS $function$
DECLARE
  source text := "github_rollup_1min_colocated"(TG_RELID, '"github_events"'::regclass);
  pairs bigint;
  pages bigint;
BEGIN
  SELECT coalesce(sum(coalesce(cardinality(keys), 1)), 0) INTO pairs FROM _drained;
  IF pairs = 0 THEN
    RETURN NULL;
  END IF;
  -- Only a partitioned table has a tree; itself, it is empty.
  SELECT coalesce(sum(pg_relation_size(relid)), pg_relation_size(source::regclass))
    / current_setting('block_size')::bigint
  INTO pages FROM pg_partition_tree(source::regclass);
  -- A pair costs about a page of the source through the index; past the pages that the source
  -- has, one pass over it is cheaper.
  IF pairs < pages THEN
    PERFORM set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true),
            set_config('enable_seqscan', 'off', true);
  ELSE
    PERFORM set_config('enable_nestloop', 'off', true);
  END IF;
  EXECUTE format($absorb$
    WITH _changed AS MATERIALIZED (
      SELECT key, bucket FROM _drained WHERE keys IS NULL
      UNION
      SELECT unnest(keys), bucket FROM _drained WHERE keys IS NOT NULL
    ), _groups AS MATERIALIZED (
      SELECT c.key, c.bucket, s."event_type" AS d0, s."repo_id" AS d1, count(*) AS m0
      FROM _changed AS c JOIN %1$s AS s
        ON s."user_id" = c.key
       AND s."created_at" >= c.bucket AND s."created_at" < c.bucket + interval '60.000000 seconds'
       AND date_bin(interval '60.000000 seconds', s."created_at", timestamptz '1970-01-01 00:00:00+00') = c.bucket
      GROUP BY c.key, c.bucket, s."event_type", s."repo_id"
      UNION ALL
      SELECT c.key, c.bucket, s."event_type" AS d0, s."repo_id" AS d1, count(*) AS m0
      FROM _changed AS c JOIN %1$s AS s
        ON s."user_id" IS NULL AND c.key IS NULL
       AND s."created_at" >= c.bucket AND s."created_at" < c.bucket + interval '60.000000 seconds'
       AND date_bin(interval '60.000000 seconds', s."created_at", timestamptz '1970-01-01 00:00:00+00') = c.bucket
      GROUP BY c.key, c.bucket, s."event_type", s."repo_id"
    ), _written AS (
      INSERT INTO %2$s AS t ("user_id", "ingest_time", "event_type", "repo_id", "total_events")
      SELECT * FROM _groups ORDER BY key, bucket
      ON CONFLICT ("user_id", "ingest_time", "event_type", "repo_id")
      DO UPDATE SET "total_events" = excluded."total_events"
      WHERE (t."total_events")
        IS DISTINCT FROM (excluded."total_events")
      RETURNING 1
    ), _gone AS MATERIALIZED (
      SELECT c.key, c.bucket, t."event_type" AS d0, t."repo_id" AS d1
      FROM _changed AS c JOIN %2$s AS t
        ON t."user_id" = c.key AND t."ingest_time" = c.bucket
      UNION ALL
      SELECT c.key, c.bucket, t."event_type" AS d0, t."repo_id" AS d1
      FROM _changed AS c JOIN %2$s AS t
        ON t."user_id" IS NULL AND c.key IS NULL AND t."ingest_time" = c.bucket
      EXCEPT
      SELECT key, bucket, d0, d1 FROM _groups
    ), _removed AS (
      DELETE FROM %2$s AS t USING _gone AS g
      WHERE t."user_id" = g.key AND t."ingest_time" = g.bucket AND t."event_type" IS NOT DISTINCT FROM g.d0 AND t."repo_id" IS NOT DISTINCT FROM g.d1
      RETURNING 1
    ), _removed_without_key AS (
      DELETE FROM %2$s AS t USING _gone AS g
      WHERE t."user_id" IS NULL AND g.key IS NULL AND t."ingest_time" = g.bucket AND t."event_type" IS NOT DISTINCT FROM g.d0 AND t."repo_id" IS NOT DISTINCT FROM g.d1
      RETURNING 1
    )
    INSERT INTO %3$s (key, groups_written, groups_removed, since, until)
    SELECT (SELECT key FROM _changed LIMIT 1), (SELECT count(*) FROM _written),
           (SELECT count(*) FROM _removed) + (SELECT count(*) FROM _removed_without_key),
           min(bucket), max(bucket) + interval '60.000000 seconds'
    FROM _changed
  $absorb$,
      "github_rollup_1min_colocated"(TG_RELID, '"github_events"'::regclass),
      "github_rollup_1min_colocated"(TG_RELID, '"github_rollup_1min"'::regclass),
      "github_rollup_1min_colocated"(TG_RELID, '"github_rollup_1min_outcome"'::regclass));
  RETURN NULL;
END
$function$;

CREATE FUNCTION "github_rollup_1min_run"(
  wait boolean, OUT groups_written bigint, OUT groups_removed bigint,
  OUT since timestamptz, OUT until timestamptz
) LANGUAGE plpgsql SET jit = off AS $function$
-- Runs the rollup and says what it did. All is NULL if another run is under way and not waited for.
#variable_conflict use_variable
DECLARE
  now_bucket timestamptz := date_bin(interval '60.000000 seconds', now(), timestamptz '1970-01-01 00:00:00+00');
BEGIN
  IF wait THEN
    LOCK TABLE "latest_rollup" IN SHARE ROW EXCLUSIVE MODE;
  ELSE
    BEGIN
      LOCK TABLE "latest_rollup" IN SHARE ROW EXCLUSIVE MODE NOWAIT;
    EXCEPTION WHEN lock_not_available THEN
      RETURN;
    END;
  END IF;
  groups_written := 0;
  groups_removed := 0;
  DELETE FROM "github_rollup_1min_changes";
  IF FOUND THEN
    WITH reported AS (DELETE FROM "github_rollup_1min_outcome" AS o RETURNING o.*)
    SELECT sum(r.groups_written), sum(r.groups_removed), min(r.since), max(r.until)
    INTO groups_written, groups_removed, since, until FROM reported AS r;
  END IF;
  DELETE FROM "latest_rollup" AS s WHERE s."minute" <> now_bucket;
  INSERT INTO "latest_rollup" ("minute") VALUES (now_bucket) ON CONFLICT DO NOTHING;
END
$function$;

CREATE FUNCTION "rollup_http_request"()
RETURNS void LANGUAGE plpgsql AS $function$
BEGIN
  PERFORM "github_rollup_1min_run"(wait => true);
END
$function$;

DO $pin$
DECLARE
  signature text;
BEGIN
  FOREACH signature IN ARRAY ARRAY[
    '"rollup_http_request"()',
    '"github_rollup_1min_run"(boolean)',
    '"github_rollup_1min_absorb"()',
    '"github_rollup_1min_capture"()',
    '"github_rollup_1min_colocated"(oid, regclass)'
  ] LOOP
    EXECUTE format('ALTER FUNCTION %s SET search_path = pg_catalog, %I, pg_temp',
                   signature, current_schema());
  END LOOP;
END
$pin$;

CREATE TRIGGER "github_rollup_1min_capture_insert" AFTER INSERT ON "github_events" REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION "github_rollup_1min_capture"();

CREATE TRIGGER "github_rollup_1min_capture_update" AFTER UPDATE ON "github_events" REFERENCING OLD TABLE AS removed NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION "github_rollup_1min_capture"();

CREATE TRIGGER "github_rollup_1min_capture_delete" AFTER DELETE ON "github_events" REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION "github_rollup_1min_capture"();

CREATE TRIGGER "github_rollup_1min_capture_truncate" BEFORE TRUNCATE ON "github_events" FOR EACH STATEMENT EXECUTE FUNCTION "github_rollup_1min_capture"();

CREATE TRIGGER "github_rollup_1min_absorb" AFTER DELETE ON "github_rollup_1min_changes" REFERENCING OLD TABLE AS _drained FOR EACH STATEMENT EXECUTE FUNCTION "github_rollup_1min_absorb"();

COMMENT ON FUNCTION "github_rollup_1min_run"(boolean) IS 'Rollup of citus_analytics, version 1: {"function": "rollup_http_request", "source": "github_events", "target": "github_rollup_1min", "state": "latest_rollup", "state_column": "minute", "key": "user_id", "key_type": "BIGINT", "time_column": "created_at", "bucket": 60.0, "bucket_column": "ingest_time", "dimensions": ["event_type", "repo_id", "user_id"], "measures": {"total_events": "count(*)"}}';

INSERT INTO "github_rollup_1min_changes" (key, bucket)
SELECT DISTINCT s."user_id", date_bin(interval '60.000000 seconds', s."created_at", timestamptz '1970-01-01 00:00:00+00')
FROM "github_events" AS s
WHERE isfinite(s."created_at");
