-- Who serves which cluster, and what they see of it.
set local role octopus_owner;

create table manager (
    instance uuid primary key,
    cluster text not null,
    version text not null,
    host text not null,
    kinds jsonb not null,
    started_at timestamptz not null default now(),
    beat_at timestamptz not null default now(),
    lease_until timestamptz not null,
    stopped_at timestamptz
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0);
comment on table manager is 'Manager processes. The lease here is the lease of everything an instance holds.';
comment on column manager.instance is 'A fresh UUID at every start, so that a dead manager never looks alive again.';
comment on column manager.cluster is 'The cluster it serves.';
comment on column manager.version is 'Version of its binary.';
comment on column manager.host is 'Host name, for people.';
comment on column manager.kinds is 'Kinds and versions of commands that it knows: {"start_process": 1}.';
comment on column manager.started_at is 'When it registered.';
comment on column manager.beat_at is 'Last beat, by Postgres''s clock.';
comment on column manager.lease_until is 'Until when its claims hold, by Postgres''s clock. Unindexed: an index would make every beat a heavy update.';
comment on column manager.stopped_at is 'When it said goodbye.';

create sequence fencing_token;
comment on sequence fencing_token is 'Rises at every claim; a write-back with an older token changes nothing.';

create table watch_lease (
    cluster text primary key,
    instance uuid not null references manager (instance),
    token bigint not null,
    taken_at timestamptz not null default now()
);
comment on table watch_lease is 'Which manager watches the pods of a cluster and reads their logs: one at a time, the others stand by.';
comment on column watch_lease.cluster is 'The cluster.';
comment on column watch_lease.instance is 'The watching manager. Its lease in manager decides.';
comment on column watch_lease.token is 'Fencing token of everything it writes back.';
comment on column watch_lease.taken_at is 'When it took over.';

create table cluster (
    name text primary key check (name ~ '^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$'),
    reachable boolean not null,
    version text,
    policy_enforced boolean,
    quota jsonb not null default '{}',
    message text,
    reconcile_halted text,
    first_seen_at timestamptz not null default now(),
    reported_at timestamptz not null default now()
) with (fillfactor = 50);
comment on table cluster is 'What the managers of a cluster last saw of it.';
comment on column cluster.name is 'The name that commands are addressed to.';
comment on column cluster.reachable is 'Whether its API server answered.';
comment on column cluster.version is 'The API server''s gitVersion.';
comment on column cluster.policy_enforced is 'Whether NetworkPolicy was seen to be enforced. Null: not yet probed.';
comment on column cluster.quota is 'ResourceQuota of the function namespace: {resource: {hard, used}}.';
comment on column cluster.message is 'Why it is not reachable.';
comment on column cluster.reconcile_halted is 'Why objects without a row are left alone at the moment. Null: they are not.';
comment on column cluster.first_seen_at is 'First report.';
comment on column cluster.reported_at is 'Last report.';

grant select on manager, watch_lease, cluster to octopus_api, octopus_manager;
grant insert, update on manager, watch_lease, cluster to octopus_manager;
grant usage on sequence fencing_token to octopus_manager;

reset role;
