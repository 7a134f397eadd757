DO $citus$
BEGIN
  IF EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'citus') THEN
    PERFORM set_config('citus.multi_shard_modify_mode', 'sequential', true);
    PERFORM set_config('citus.enable_unsafe_triggers', 'on', true);
  END IF;
END
$citus$;

DROP TRIGGER IF EXISTS "github_rollup_1min_capture_insert" ON "github_events";

DROP TRIGGER IF EXISTS "github_rollup_1min_capture_update" ON "github_events";

DROP TRIGGER IF EXISTS "github_rollup_1min_capture_delete" ON "github_events";

DROP TRIGGER IF EXISTS "github_rollup_1min_capture_truncate" ON "github_events";

DROP TABLE IF EXISTS "github_rollup_1min_changes";

DROP TABLE IF EXISTS "github_rollup_1min_outcome";

DROP FUNCTION IF EXISTS "rollup_http_request"();

DROP FUNCTION IF EXISTS "github_rollup_1min_run"(boolean);

DROP FUNCTION IF EXISTS "github_rollup_1min_absorb"();

DROP FUNCTION IF EXISTS "github_rollup_1min_capture"();

DROP FUNCTION IF EXISTS "github_rollup_1min_colocated"(oid, regclass);
