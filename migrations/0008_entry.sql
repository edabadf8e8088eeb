-- What a source says about how it is run, and what a cluster was found to be.
set local role octopus_owner;

alter table revision add column entry jsonb not null default '{}';
comment on column revision.entry is 'Entry as JSON (shared/src/function.rs): routes and arguments that were found in the source.';

alter table cluster
    add column preflight jsonb,
    add column preflight_at timestamptz;
comment on column cluster.preflight is 'Findings of the last preflight, a JSON list of {check, status, found, remedy}. Null: there was none.';
comment on column cluster.preflight_at is 'When that preflight ended.';


grant update (entry) on revision to octopus_manager;

reset role;
