DO $citus$
BEGIN
  IF EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'citus') THEN
    PERFORM set_config('citus.multi_shard_modify_mode', 'sequential', true);
    PERFORM set_config('citus.enable_unsafe_triggers', 'on', true);
  END IF;
END
$citus$;

DROP TRIGGER "github_rollup_1min_capture_insert" ON "github_events";

DROP TRIGGER "github_rollup_1min_capture_update" ON "github_events";

DROP TRIGGER "github_rollup_1min_capture_delete" ON "github_events";

DROP TRIGGER "github_rollup_1min_capture_truncate" ON "github_events";

DROP TABLE "github_rollup_1min_changes";

DROP TABLE "github_rollup_1min_outcome";

DROP FUNCTION "rollup_http_request"();

DROP FUNCTION "github_rollup_1min_run"(boolean);

DROP FUNCTION "github_rollup_1min_absorb"();

DROP FUNCTION "github_rollup_1min_capture"();

DROP FUNCTION "github_rollup_1min_colocated"(oid, regclass);
