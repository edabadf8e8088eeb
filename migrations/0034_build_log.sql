-- The log of a build is read while it is written, and its places stay good.
set local role octopus_owner;

alter table revision
    add column build_attempt integer not null default 0,
    add column build_log_dropped bigint not null default 0;
comment on column revision.build_attempt is 'How often its log was begun: with each try of the build it begins anew, and cursors into it name that.';
comment on column revision.build_log is 'Steps of the build and what the resolver printed, each line after its time: at most 256 KiB. Of a longer one lines in the middle are left out.';
comment on column revision.build_log_dropped is 'How many lines were left out.';
grant update (build_attempt, build_log_dropped) on revision to octopus_manager;

reset role;
