-- What is wanted and what was seen: processes, their pods, and the ordered history of both.
set local role octopus_owner;

create type process_lifecycle as enum ('requested', 'created', 'stopping', 'gone');
comment on type process_lifecycle is 'Moves only forward, in this order.';

create table process (
    id uuid primary key,
    function_name text not null references function (name),
    revision_id uuid not null references revision (id),
    cluster text not null,
    kind text not null check (kind in ('service', 'task')),
    name text not null unique check (name ~ '^[a-z]([a-z0-9-]{0,51}[a-z0-9])?$'),
    spec jsonb not null,
    requested_by text not null,
    desired text not null default 'running' check (desired in ('running', 'killed')),
    kill_requested_at timestamptz,
    kill_grace_seconds integer check (kill_grace_seconds between 0 and 3600),
    kill_force boolean not null default false,
    attempt integer not null default 1,
    lifecycle process_lifecycle not null default 'requested',
    state text not null default 'pending' check (state in ('pending', 'starting', 'running', 'ready', 'failing', 'stopping',
        'succeeded', 'failed', 'killed', 'unconfirmed')),
    reason text,
    message text,
    remedy text,
    exit_code integer,
    endpoint text,
    manifest jsonb,
    last_event bigint not null default 0,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    gone_at timestamptz
) with (fillfactor = 70);
comment on table process is 'One wish to run a revision, with the desired and the observed state.';
comment on column process.id is 'UUID v7 given by the API. Label octopus-process-manager/process of its objects.';
comment on column process.function_name is 'The function.';
comment on column process.revision_id is 'The revision that is wanted.';
comment on column process.cluster is 'The cluster it runs on.';
comment on column process.kind is 'service: stays up and answers HTTP. task: runs once and ends.';
comment on column process.name is 'Name of its Kubernetes objects: the function''s name and the random end of the id.';
comment on column process.spec is 'ProcessSpec as JSON (shared/src/process.rs).';
comment on column process.requested_by is 'Name of the token that asked for it.';
comment on column process.desired is 'What is wanted. A kill sets it in the transaction that stores the kill.';
comment on column process.kill_requested_at is 'When the first kill was stored.';
comment on column process.kill_grace_seconds is 'The shortest grace that a kill asked for. Null: the function''s own.';
comment on column process.kill_force is 'Whether a kill asked to delete without waiting for the end of its containers.';
comment on column process.attempt is 'Which run of a task this is, from 1. Moves only forward; part of the pod''s name.';
comment on column process.lifecycle is 'requested, created, stopping, gone: moves only forward.';
comment on column process.state is 'What is seen of it now, within its lifecycle.';
comment on column process.reason is 'Stable id of why, from the taxonomy in shared/src/reason.rs.';
comment on column process.message is 'The same for people.';
comment on column process.remedy is 'What to do about it.';
comment on column process.exit_code is 'Exit code of a task''s container. Null while unknown.';
comment on column process.endpoint is 'URL at which a service is called, inside its cluster.';
comment on column process.manifest is 'The Kubernetes objects as they were created, a JSON list.';
comment on column process.last_event is 'Number of its newest row in process_event.';
comment on column process.created_at is 'When it was asked for.';
comment on column process.updated_at is 'When its state last changed.';
comment on column process.gone_at is 'When nothing of it was left in the cluster.';
create index process_live on process (cluster, id) where lifecycle < 'gone';
create index process_by_function on process (function_name, id);

create table pod (
    uid text primary key,
    process_id uuid not null references process (id),
    attempt integer not null,
    name text not null,
    node text,
    phase text not null,
    state text not null,
    reason text,
    message text,
    exit_code integer,
    restart_count integer not null default 0,
    containers jsonb not null default '[]',
    resource_version text not null,
    observation bigint not null,
    created_at timestamptz not null,
    ended_at timestamptz,
    gone_at timestamptz
) with (fillfactor = 70);
comment on table pod is 'Pods that Kubernetes ran for processes, as last seen.';
comment on column pod.uid is 'Kubernetes'' uid: a name may be used again, a uid never is.';
comment on column pod.process_id is 'The process, from the pod''s label.';
comment on column pod.attempt is 'The attempt it was made for, from the pod''s label.';
comment on column pod.name is 'Its name in the function namespace.';
comment on column pod.node is 'The node it was scheduled to.';
comment on column pod.phase is 'Kubernetes'' own phase.';
comment on column pod.state is 'Folded state (manager/src/cluster/state.rs).';
comment on column pod.reason is 'Stable id of why.';
comment on column pod.message is 'Kubernetes'' own words.';
comment on column pod.exit_code is 'Exit code of the function''s container once it ended and the code is known.';
comment on column pod.restart_count is 'Restarts of the function''s container.';
comment on column pod.containers is 'Container statuses: name, id, state, restart count, times.';
comment on column pod.resource_version is 'Version of the object that was folded.';
comment on column pod.observation is 'Counter of the fenced writer: orders observations, which resource versions do not across a restore.';
comment on column pod.created_at is 'creationTimestamp of the object.';
comment on column pod.ended_at is 'When its containers were seen to have ended.';
comment on column pod.gone_at is 'When the object was seen to be gone.';
create index pod_by_process on pod (process_id);

create table process_event (
    process_id uuid not null,
    number bigint not null,
    day date not null,
    at timestamptz not null,
    cluster text not null,
    lifecycle process_lifecycle not null,
    state text not null,
    reason text,
    message text,
    remedy text,
    exit_code integer,
    pod_uid text,
    resource_version text,
    transaction xid8 not null default pg_current_xact_id(),
    primary key (process_id, number, day)
) partition by range (day);
comment on table process_event is 'Every transition of every process, append-only, numbered within the process.';
comment on column process_event.process_id is 'The process. No foreign key points into history or out of it.';
comment on column process_event.number is 'From 1, without holes: given under the lock of the process row.';
comment on column process_event.day is 'UTC day: the partition.';
comment on column process_event.at is 'Clock of Postgres when it was recorded.';
comment on column process_event.cluster is 'Cluster of the process.';
comment on column process_event.lifecycle is 'Lifecycle after the transition.';
comment on column process_event.state is 'State after the transition.';
comment on column process_event.reason is 'Stable id of why.';
comment on column process_event.message is 'The same for people.';
comment on column process_event.remedy is 'What to do about it.';
comment on column process_event.exit_code is 'Exit code where the transition has one.';
comment on column process_event.pod_uid is 'The pod that it was seen on.';
comment on column process_event.resource_version is 'Version of the pod that it was seen on.';
comment on column process_event.transaction is 'Writing transaction. A feed reads only below the oldest one still open, so no late commit is skipped.';
create table process_event_default partition of process_event default;
comment on table process_event_default is 'Takes rows whose day has no partition. Alert when it is not empty.';
create index process_event_feed on process_event (transaction, process_id, number);

-- The only way a process changes what it shows: forward, and with an event exactly when something changed.
-- Answers whether it did.
create function transition(
    target uuid,
    to_lifecycle process_lifecycle,
    to_state text,
    why text default null,
    words text default null,
    remedy_words text default null,
    code integer default null,
    seen_on_pod text default null,
    seen_version text default null
) returns boolean
language plpgsql
set search_path = public, pg_temp
as $$
declare
    current process;
begin
    select * into current from process where id = target for update;
    if not found or to_lifecycle < current.lifecycle
       or (to_lifecycle = current.lifecycle and current.lifecycle = 'gone')
       or (to_lifecycle, to_state, why) is not distinct from (current.lifecycle, current.state, current.reason) then
        return false;
    end if;
    update process
       set lifecycle = to_lifecycle, state = to_state, reason = why, message = words, remedy = remedy_words,
           exit_code = coalesce(code, exit_code), last_event = last_event + 1, updated_at = clock_timestamp(),
           gone_at = case when to_lifecycle = 'gone' then clock_timestamp() end
     where id = target;
    insert into process_event (process_id, number, day, at, cluster, lifecycle, state, reason, message, remedy, exit_code,
                               pod_uid, resource_version)
    values (target, current.last_event + 1, (clock_timestamp() at time zone 'utc')::date, clock_timestamp(), current.cluster,
            to_lifecycle, to_state, why, words, remedy_words, code, seen_on_pod, seen_version);
    return true;
end
$$;
comment on function transition is 'Moves a process forward and appends the event. False when nothing changed.';

grant select on process, pod, process_event to octopus_api, octopus_manager;
grant update (attempt, lifecycle, state, reason, message, remedy, exit_code, endpoint, manifest, last_event, updated_at, gone_at)
    on process to octopus_manager;
grant insert, update on pod to octopus_manager;
grant insert on process_event to octopus_manager;
grant execute on function transition to octopus_manager;

reset role;
