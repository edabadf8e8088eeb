-- The queue. The body of a command is written once; what changes while it waits and runs is in two narrow tables beside it.
set local role octopus_owner;

create table command (
    seq bigint generated always as identity primary key,
    id uuid not null unique,
    cluster text not null default '',
    kind text not null,
    version smallint not null default 1,
    function_name text,
    revision_id uuid,
    process_id uuid,
    target_command uuid,
    payload jsonb not null default '{}',
    requested_by text not null,
    idempotency_key text check (length(idempotency_key) between 1 and 255),
    request_hash bytea check (octet_length(request_hash) = 32),
    trace_parent text,
    created_at timestamptz not null default now(),
    state text not null default 'waiting' check (state in ('waiting', 'succeeded', 'failed', 'cancelled')),
    reason text,
    message text,
    remedy text,
    finished_at timestamptz,
    constraint command_idempotency_is_whole check ((idempotency_key is null) = (request_hash is null))
);
comment on table command is 'What somebody asked for, and how it ended.';
comment on column command.seq is 'The order: given by Postgres.';
comment on column command.id is 'UUID v7 given by the API; a name, not an order.';
comment on column command.cluster is 'Whose managers may claim it. Filled from the function or the process where there is one.';
comment on column command.kind is 'What is asked for (shared/src/command.rs).';
comment on column command.version is 'Version of the payload. Managers leave what they do not know to newer ones.';
comment on column command.function_name is 'The function it is about.';
comment on column command.revision_id is 'The revision it makes or runs.';
comment on column command.process_id is 'The process it makes or ends.';
comment on column command.target_command is 'The command that a cancel names.';
comment on column command.payload is 'What else the kind needs. Never a secret.';
comment on column command.requested_by is 'Name of the token.';
comment on column command.idempotency_key is 'Idempotency-Key of the request.';
comment on column command.request_hash is 'SHA-256 of method, path and body of the request.';
comment on column command.trace_parent is 'W3C trace context of the request.';
comment on column command.created_at is 'When it was stored.';
comment on column command.state is 'waiting until it ends; whether it is claimed is in command_lease.';
comment on column command.reason is 'Stable id of why it failed.';
comment on column command.message is 'The same for people.';
comment on column command.remedy is 'What to do about it.';
comment on column command.finished_at is 'When it ended.';
create index command_by_process on command (process_id) where process_id is not null;

create table idempotency (
    who text not null,
    key text not null,
    request_hash bytea not null,
    command_id uuid not null,
    created_at timestamptz not null default now(),
    primary key (who, key)
);
comment on table idempotency is 'Which request first used an Idempotency-Key, and the command it made.';
comment on column idempotency.who is 'Name of the token: keys of different callers do not meet.';
comment on column idempotency.key is 'The key.';
comment on column idempotency.request_hash is 'Hash of the request: another request under the same key is a conflict.';
comment on column idempotency.command_id is 'The command to answer with.';
comment on column idempotency.created_at is 'When it was first used.';

create table command_ready (
    seq bigint primary key,
    cluster text not null,
    kind text not null,
    version smallint not null,
    key text not null,
    priority smallint not null,
    run_at timestamptz not null default now(),
    waits_for uuid,
    attempts integer not null default 0,
    rescues integer not null default 0
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0,
        autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 500);
comment on table command_ready is 'Commands that wait to be claimed.';
comment on column command_ready.seq is 'The command.';
comment on column command_ready.cluster is 'Copied from the command.';
comment on column command_ready.kind is 'Copied from the command.';
comment on column command_ready.version is 'Copied from the command.';
comment on column command_ready.key is 'Commands of one key run one at a time and in order. A kill has a key of its own, so it waits behind nothing.';
comment on column command_ready.priority is 'Lower first: 0 for kills, 10 for starts, 20 for builds.';
comment on column command_ready.run_at is 'Not before this time.';
comment on column command_ready.waits_for is 'The revision whose image must be ready first.';
comment on column command_ready.attempts is 'How often it was tried and failed in a way that may pass.';
comment on column command_ready.rescues is 'How often a manager died while it held it. Capped apart from attempts: the command may be what kills them.';
create index command_ready_order on command_ready (cluster, priority, seq) where waits_for is null;
create index command_ready_key on command_ready (key);
create index command_ready_waiting on command_ready (waits_for) where waits_for is not null;

create table command_lease (
    seq bigint primary key,
    cluster text not null,
    kind text not null,
    version smallint not null,
    key text not null unique,
    priority smallint not null,
    instance uuid not null references manager (instance),
    token bigint not null,
    claimed_at timestamptz not null default now(),
    attempts integer not null,
    rescues integer not null
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0);
comment on table command_lease is 'Commands that a manager works on. The lease lasts as long as that manager''s own.';
comment on column command_lease.seq is 'The command.';
comment on column command_lease.cluster is 'As in command_ready.';
comment on column command_lease.kind is 'As in command_ready.';
comment on column command_lease.version is 'As in command_ready.';
comment on column command_lease.key is 'Unique: the net below the claim''s own ordering.';
comment on column command_lease.priority is 'As in command_ready.';
comment on column command_lease.instance is 'The manager that holds it.';
comment on column command_lease.token is 'Fencing token of this claim.';
comment on column command_lease.claimed_at is 'When it was claimed.';
comment on column command_lease.attempts is 'As in command_ready.';
comment on column command_lease.rescues is 'As in command_ready.';

grant select on command, command_ready, command_lease, idempotency to octopus_api, octopus_manager;
grant insert (id, cluster, kind, version, function_name, revision_id, process_id, target_command, payload, requested_by,
              idempotency_key, request_hash, trace_parent) on command to octopus_api, octopus_manager;
grant update (state, reason, message, remedy, finished_at) on command to octopus_manager;
grant insert, update, delete on command_ready, command_lease to octopus_manager;

reset role;
