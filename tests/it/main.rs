//! Integration tests on a real Postgres: one file per topic.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends at the first thing that is not as it should be"
)]

mod api_auth;
mod api_build_log;
mod api_command;
mod api_events;
mod api_follow;
mod api_followers;
mod api_fuzz;
mod api_idempotency;
mod api_input;
mod api_logs;
mod api_logs_filter;
mod api_migrations;
mod api_openapi;
mod api_process;
mod api_roles;
mod api_schema;
mod api_shared;
mod api_story;
mod api_story_follow;
mod api_waiting;
mod changes;
mod decisions;
mod drift;
mod dropped;
mod left_alone;
mod log_fill;
mod log_limit;
mod log_merge;
mod log_spool;
mod policy;
mod queue;
mod queue_model;
mod queue_order;
mod queue_plans;
mod retention;
mod services_without_pods;
mod shards;
mod tasks_without_images;
mod transitions;
mod versions;
