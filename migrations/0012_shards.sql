-- The processes of a cluster in shards, so that its managers divide among them what is to be watched and read.
set local role octopus_owner;

alter table watch_lease
    add column shards smallint[] not null default array[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11],
    drop constraint watch_lease_pkey,
    add primary key (cluster, instance);
alter table watch_lease alter column shards drop default;
comment on table watch_lease is 'Which shards of a cluster''s processes a manager watches: it alone stores what is seen of their pods, and reads their logs.';
comment on column watch_lease.shards is 'The shards. Those of no live manager are free. Rows change under a lock of the cluster, so no shard is in two of them.';
grant delete on watch_lease to octopus_manager;

alter table pod add column shard smallint not null default 0;
comment on column pod.shard is 'The shard that its label names; 0 without one, as on pods that were made before there were shards.';

reset role;
