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
        RAISE EXCEPTION USING MESSAGE = format('rollup %s has to be created under READ COMMITTED: under another isolation level rows that others have just committed would be missed.', '"views by ""hour"""'), ERRCODE = 'CAREF';
    END IF;
    IF EXISTS (SELECT FROM pg_catalog.pg_attribute AS a WHERE ((a.attrelid = '"Web Shop"."Page Views"'::regclass AND a.attname = 'key') OR (a.attrelid = '"Web Shop"."views by ""hour"""'::regclass AND a.attname = 'Bucket') OR (a.attrelid = '"Web Shop"."Last Run"'::regclass AND a.attname = 'At'))
               AND a.atttypid <> 'pg_catalog.timestamptz'::regtype) THEN
        RAISE EXCEPTION USING MESSAGE = format('rollup %s needs timestamp with time zone for %s, %s and %s: without a zone a bucket would depend on the session.', '"views by ""hour"""', '"key"', '"Bucket"', '"At"'), ERRCODE = 'CAREF';
    END IF;
    IF NOT EXISTS (
        SELECT FROM pg_catalog.pg_index AS i
        WHERE i.indrelid = '"Web Shop"."views by ""hour"""'::regclass AND i.indisunique
          AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
          AND (SELECT pg_catalog.array_agg(a.attname::text) FROM pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY AS k (number, place)
              JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.number
              WHERE k.place <= i.indnkeyatts) @> ARRAY['Tenant:Id', 'Bucket', 'groups', 'it''s',  E'back\\slash']
          AND (SELECT pg_catalog.array_agg(a.attname::text) FROM pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY AS k (number, place)
              JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.number
              WHERE k.place <= i.indnkeyatts) <@ ARRAY['Tenant:Id', 'Bucket', 'groups', 'it''s',  E'back\\slash']
          AND (i.indnullsnotdistinct OR NOT EXISTS (
            SELECT FROM pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY AS k (number, place)
              JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.number
              WHERE k.place <= i.indnkeyatts AND NOT a.attnotnull
              AND a.attname <> 'Bucket'))) THEN
        RAISE EXCEPTION USING MESSAGE = format('rollup %s needs a primary key or unique index on %s, %s, %s, %s, %s alone, with NULLS NOT DISTINCT if one of them may be NULL: it keeps one row a group.', '"views by ""hour"""', '"Tenant:Id"', '"Bucket"', '"groups"', '"it''s"',  E'"back\\slash"'), ERRCODE = 'CAREF';
    END IF;
END
$check$;

DO $citus$
BEGIN
  IF EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'citus') THEN
    IF (SELECT colocationid FROM pg_catalog.pg_dist_partition
        WHERE logicalrelid = '"Web Shop"."Page Views"'::regclass) IS DISTINCT FROM
        (SELECT colocationid FROM pg_catalog.pg_dist_partition
        WHERE logicalrelid = '"Web Shop"."views by ""hour"""'::regclass) THEN
        RAISE EXCEPTION USING MESSAGE = format('rollup %s has to be colocated with its source %s: distribute it by the same column, with colocate_with.', '"views by ""hour"""', '"Page Views"'), ERRCODE = 'CAREF';
    END IF;
  END IF;
END
$citus$;

CREATE TABLE "Web Shop"."views by ""hour""_changes" (
  key UUID,
  bucket timestamptz NOT NULL,
  keys UUID[]
) WITH (toast_tuple_target = 128, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

ALTER TABLE "Web Shop"."views by ""hour""_changes" ALTER COLUMN keys SET STORAGE EXTERNAL;

CREATE TABLE "Web Shop"."views by ""hour""_outcome" (
  key UUID,
  groups_written bigint NOT NULL,
  groups_removed bigint NOT NULL,
  since timestamptz NOT NULL,
  until timestamptz NOT NULL
);

DO $citus$
BEGIN
  IF EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'citus') THEN
    IF EXISTS (SELECT FROM pg_catalog.pg_dist_partition
               WHERE logicalrelid = '"Web Shop"."Page Views"'::regclass) THEN
      PERFORM create_distributed_table('"Web Shop"."views by ""hour""_changes"', 'key',
        colocate_with => '"Web Shop"."Page Views"');
      PERFORM create_distributed_table('"Web Shop"."views by ""hour""_outcome"', 'key',
        colocate_with => '"Web Shop"."Page Views"');
    END IF;
  END IF;
END
$citus$;

CREATE FUNCTION "Web Shop"."views by ""hour""_colocated"(relation oid, wanted regclass)
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

CREATE FUNCTION "Web Shop"."views by ""hour""_capture"()
RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET jit = off SET enable_hashagg = off AS $function$
-- Sorting, unlike hashing, holds the keys of one bucket at a time, however large the statement.
DECLARE
  changes text := "views by ""hour""_colocated"(TG_RELID, '"views by ""hour""_changes"'::regclass);
  sharded boolean := changes <> '"views by ""hour""_changes"'::regclass::text;
BEGIN
  -- It has its owner's rights: on tables of others it would run what their types cast with.
  IF "views by ""hour""_colocated"(TG_RELID, '"Page Views"'::regclass)::regclass <> TG_RELID THEN
    RAISE EXCEPTION 'this trigger function is for another table than %', TG_RELID::regclass;
  END IF;
  IF TG_OP = 'INSERT' AND NOT sharded THEN
    INSERT INTO "views by ""hour""_changes" (bucket, keys)
    SELECT bucket, array_agg(key) FROM (
      SELECT DISTINCT bucket, key FROM (SELECT date_bin(interval '900.000001 seconds', r."key", timestamptz '1970-01-01 00:00:00+00') AS bucket, r."Tenant:Id" AS key FROM added AS r WHERE isfinite(r."key")) AS changed
    ) AS once GROUP BY bucket;
  ELSIF TG_OP = 'INSERT' THEN
    EXECUTE format($log$
      INSERT INTO %1$s (bucket, key)
      SELECT DISTINCT bucket, key FROM (SELECT date_bin(interval '900.000001 seconds', r."key", timestamptz '1970-01-01 00:00:00+00') AS bucket, r."Tenant:Id" AS key FROM added AS r WHERE isfinite(r."key")) AS changed
    $log$, changes);
  ELSIF TG_OP = 'UPDATE' AND NOT sharded THEN
    INSERT INTO "views by ""hour""_changes" (bucket, keys)
    SELECT bucket, array_agg(key) FROM (
      SELECT DISTINCT bucket, key FROM (SELECT date_bin(interval '900.000001 seconds', r."key", timestamptz '1970-01-01 00:00:00+00') AS bucket, r."Tenant:Id" AS key FROM added AS r WHERE isfinite(r."key") UNION SELECT date_bin(interval '900.000001 seconds', r."key", timestamptz '1970-01-01 00:00:00+00') AS bucket, r."Tenant:Id" AS key FROM removed AS r WHERE isfinite(r."key")) AS changed
    ) AS once GROUP BY bucket;
  ELSIF TG_OP = 'UPDATE' THEN
    EXECUTE format($log$
      INSERT INTO %1$s (bucket, key)
      SELECT DISTINCT bucket, key FROM (SELECT date_bin(interval '900.000001 seconds', r."key", timestamptz '1970-01-01 00:00:00+00') AS bucket, r."Tenant:Id" AS key FROM added AS r WHERE isfinite(r."key") UNION SELECT date_bin(interval '900.000001 seconds', r."key", timestamptz '1970-01-01 00:00:00+00') AS bucket, r."Tenant:Id" AS key FROM removed AS r WHERE isfinite(r."key")) AS changed
    $log$, changes);
  ELSIF TG_OP = 'DELETE' AND NOT sharded THEN
    INSERT INTO "views by ""hour""_changes" (bucket, keys)
    SELECT bucket, array_agg(key) FROM (
      SELECT DISTINCT bucket, key FROM (SELECT date_bin(interval '900.000001 seconds', r."key", timestamptz '1970-01-01 00:00:00+00') AS bucket, r."Tenant:Id" AS key FROM removed AS r WHERE isfinite(r."key")) AS changed
    ) AS once GROUP BY bucket;
  ELSIF TG_OP = 'DELETE' THEN
    EXECUTE format($log$
      INSERT INTO %1$s (bucket, key)
      SELECT DISTINCT bucket, key FROM (SELECT date_bin(interval '900.000001 seconds', r."key", timestamptz '1970-01-01 00:00:00+00') AS bucket, r."Tenant:Id" AS key FROM removed AS r WHERE isfinite(r."key")) AS changed
    $log$, changes);
  ELSIF NOT sharded THEN
    -- A shard is truncated only after the whole table has been logged here.
    IF EXISTS (SELECT FROM pg_extension WHERE extname = 'citus') THEN
      -- Citus truncates from the coordinator: no run may add a group between here and there.
      LOCK TABLE "Last Run" IN SHARE ROW EXCLUSIVE MODE;
    END IF;
    INSERT INTO "views by ""hour""_changes" (key, bucket)
    SELECT DISTINCT t."Tenant:Id", t."Bucket"
    FROM "views by ""hour""" AS t;
  END IF;
  RETURN NULL;
END
$function$;

CREATE FUNCTION "Web Shop"."views by ""hour""_absorb"()
RETURNS trigger LANGUAGE plpgsql SET jit = off SET enable_nestloop = on SET enable_hashjoin = on SET enable_mergejoin = on SET enable_seqscan = on AS $function$
DECLARE
  source text := "views by ""hour""_colocated"(TG_RELID, '"Page Views"'::regclass);
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
      SELECT c.key, c.bucket, s."groups" AS d0, s."it's" AS d1, s."back\slash" AS d2, count(*) AS m0, sum(s."Milli%%seconds") AS m1, min(s."(odd) name") AS m2, max(s."Milli%%seconds") AS m3
      FROM _changed AS c JOIN %1$s AS s
        ON s."Tenant:Id" = c.key
       AND s."key" >= c.bucket AND s."key" < c.bucket + interval '900.000001 seconds'
       AND date_bin(interval '900.000001 seconds', s."key", timestamptz '1970-01-01 00:00:00+00') = c.bucket
      GROUP BY c.key, c.bucket, s."groups", s."it's", s."back\slash"
      UNION ALL
      SELECT c.key, c.bucket, s."groups" AS d0, s."it's" AS d1, s."back\slash" AS d2, count(*) AS m0, sum(s."Milli%%seconds") AS m1, min(s."(odd) name") AS m2, max(s."Milli%%seconds") AS m3
      FROM _changed AS c JOIN %1$s AS s
        ON s."Tenant:Id" IS NULL AND c.key IS NULL
       AND s."key" >= c.bucket AND s."key" < c.bucket + interval '900.000001 seconds'
       AND date_bin(interval '900.000001 seconds', s."key", timestamptz '1970-01-01 00:00:00+00') = c.bucket
      GROUP BY c.key, c.bucket, s."groups", s."it's", s."back\slash"
    ), _written AS (
      INSERT INTO %2$s AS t ("Tenant:Id", "Bucket", "groups", "it's", "back\slash", "N", "Sum", "least", "most")
      SELECT * FROM _groups ORDER BY key, bucket
      ON CONFLICT ("Tenant:Id", "Bucket", "groups", "it's", "back\slash")
      DO UPDATE SET "N" = excluded."N", "Sum" = excluded."Sum", "least" = excluded."least", "most" = excluded."most"
      WHERE (t."N", t."Sum", t."least", t."most")
        IS DISTINCT FROM (excluded."N", excluded."Sum", excluded."least", excluded."most")
      RETURNING 1
    ), _gone AS MATERIALIZED (
      SELECT c.key, c.bucket, t."groups" AS d0, t."it's" AS d1, t."back\slash" AS d2
      FROM _changed AS c JOIN %2$s AS t
        ON t."Tenant:Id" = c.key AND t."Bucket" = c.bucket
      UNION ALL
      SELECT c.key, c.bucket, t."groups" AS d0, t."it's" AS d1, t."back\slash" AS d2
      FROM _changed AS c JOIN %2$s AS t
        ON t."Tenant:Id" IS NULL AND c.key IS NULL AND t."Bucket" = c.bucket
      EXCEPT
      SELECT key, bucket, d0, d1, d2 FROM _groups
    ), _removed AS (
      DELETE FROM %2$s AS t USING _gone AS g
      WHERE t."Tenant:Id" = g.key AND t."Bucket" = g.bucket AND t."groups" IS NOT DISTINCT FROM g.d0 AND t."it's" IS NOT DISTINCT FROM g.d1 AND t."back\slash" IS NOT DISTINCT FROM g.d2
      RETURNING 1
    ), _removed_without_key AS (
      DELETE FROM %2$s AS t USING _gone AS g
      WHERE t."Tenant:Id" IS NULL AND g.key IS NULL AND t."Bucket" = g.bucket AND t."groups" IS NOT DISTINCT FROM g.d0 AND t."it's" IS NOT DISTINCT FROM g.d1 AND t."back\slash" IS NOT DISTINCT FROM g.d2
      RETURNING 1
    )
    INSERT INTO %3$s (key, groups_written, groups_removed, since, until)
    SELECT (SELECT key FROM _changed LIMIT 1), (SELECT count(*) FROM _written),
           (SELECT count(*) FROM _removed) + (SELECT count(*) FROM _removed_without_key),
           min(bucket), max(bucket) + interval '900.000001 seconds'
    FROM _changed
  $absorb$,
      "views by ""hour""_colocated"(TG_RELID, '"Page Views"'::regclass),
      "views by ""hour""_colocated"(TG_RELID, '"views by ""hour"""'::regclass),
      "views by ""hour""_colocated"(TG_RELID, '"views by ""hour""_outcome"'::regclass));
  RETURN NULL;
END
$function$;

CREATE FUNCTION "Web Shop"."views by ""hour""_run"(
  wait boolean, OUT groups_written bigint, OUT groups_removed bigint,
  OUT since timestamptz, OUT until timestamptz
) LANGUAGE plpgsql SET jit = off AS $function$
-- Runs the rollup and says what it did. All is NULL if another run is under way and not waited for.
#variable_conflict use_variable
DECLARE
  now_bucket timestamptz := date_bin(interval '900.000001 seconds', now(), timestamptz '1970-01-01 00:00:00+00');
BEGIN
  IF wait THEN
    LOCK TABLE "Last Run" IN SHARE ROW EXCLUSIVE MODE;
  ELSE
    BEGIN
      LOCK TABLE "Last Run" IN SHARE ROW EXCLUSIVE MODE NOWAIT;
    EXCEPTION WHEN lock_not_available THEN
      RETURN;
    END;
  END IF;
  groups_written := 0;
  groups_removed := 0;
  DELETE FROM "views by ""hour""_changes";
  IF FOUND THEN
    WITH reported AS (DELETE FROM "views by ""hour""_outcome" AS o RETURNING o.*)
    SELECT sum(r.groups_written), sum(r.groups_removed), min(r.since), max(r.until)
    INTO groups_written, groups_removed, since, until FROM reported AS r;
  END IF;
  DELETE FROM "Last Run" AS s WHERE s."At" <> now_bucket;
  INSERT INTO "Last Run" ("At") VALUES (now_bucket) ON CONFLICT DO NOTHING;
END
$function$;

CREATE FUNCTION "Web Shop"."Roll 100% up"()
RETURNS void LANGUAGE plpgsql AS $function$
BEGIN
  PERFORM "views by ""hour""_run"(wait => true);
END
$function$;

DO $pin$
DECLARE
  signature text;
BEGIN
  FOREACH signature IN ARRAY ARRAY[
    '"Web Shop"."Roll 100% up"()',
    '"Web Shop"."views by ""hour""_run"(boolean)',
    '"Web Shop"."views by ""hour""_absorb"()',
    '"Web Shop"."views by ""hour""_capture"()',
    '"Web Shop"."views by ""hour""_colocated"(oid, regclass)'
  ] LOOP
    EXECUTE format('ALTER FUNCTION %s SET search_path = pg_catalog, %I, pg_temp',
                   signature, 'Web Shop');
  END LOOP;
END
$pin$;

CREATE TRIGGER "views by ""hour""_capture_insert" AFTER INSERT ON "Web Shop"."Page Views" REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION "Web Shop"."views by ""hour""_capture"();

CREATE TRIGGER "views by ""hour""_capture_update" AFTER UPDATE ON "Web Shop"."Page Views" REFERENCING OLD TABLE AS removed NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION "Web Shop"."views by ""hour""_capture"();

CREATE TRIGGER "views by ""hour""_capture_delete" AFTER DELETE ON "Web Shop"."Page Views" REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION "Web Shop"."views by ""hour""_capture"();

CREATE TRIGGER "views by ""hour""_capture_truncate" BEFORE TRUNCATE ON "Web Shop"."Page Views" FOR EACH STATEMENT EXECUTE FUNCTION "Web Shop"."views by ""hour""_capture"();

CREATE TRIGGER "views by ""hour""_absorb" AFTER DELETE ON "Web Shop"."views by ""hour""_changes" REFERENCING OLD TABLE AS _drained FOR EACH STATEMENT EXECUTE FUNCTION "Web Shop"."views by ""hour""_absorb"();

COMMENT ON FUNCTION "Web Shop"."views by ""hour""_run"(boolean) IS  E'Rollup of citus_analytics, version 1: {"function": "Roll 100% up", "source": "Page Views", "target": "views by \\"hour\\"", "state": "Last Run", "state_column": "At", "key": "Tenant:Id", "key_type": "UUID", "time_column": "key", "bucket": 900.000001, "bucket_column": "Bucket", "dimensions": ["groups", "Tenant:Id", "it''s", "back\\\\slash"], "measures": {"N": "count(*)", "Sum": "sum(Milli%seconds)", "least": "min((odd) name)", "most": "max(Milli%seconds)"}}';

INSERT INTO "Web Shop"."views by ""hour""_changes" (key, bucket)
SELECT DISTINCT s."Tenant:Id", date_bin(interval '900.000001 seconds', s."key", timestamptz '1970-01-01 00:00:00+00')
FROM "Web Shop"."Page Views" AS s
WHERE isfinite(s."key");
