-- What managers died with several times is carried out by itself, so that a manager's end counts only for what ends managers.
set local role octopus_owner;

create index command_ready_suspect on command_ready (cluster, seq) where rescues >= 3;
comment on index command_ready_suspect is 'What claim_suspect looks through; mostly empty.';

create or replace function claim_commands(
    by_instance uuid,
    of_cluster text,
    of_kinds text[],
    up_to_version smallint,
    above bigint,
    up_to bigint
) returns table (
    seq bigint, id uuid, token bigint, kind text, function_name text, revision_id uuid, process_id uuid, payload jsonb,
    attempts integer, trace_parent text, created_at timestamptz
)
language plpgsql
set search_path = public, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_material = off
set jit = off
as $$
#variable_conflict use_column
begin
    -- Locks, moves and returns in one statement. The first part is materialized: inlined, the planner may lock and move more
    -- rows than the limit. Of each key only the oldest row is taken, and only while no other of it runs. A locked row stays in
    -- its place; one that was changed after this began is not found there, and is left to the next look.
    return query
    with candidate as materialized (
        select r.ctid as place
          from command_ready r
         where r.cluster = of_cluster and r.waits_for is null and r.seq > above
           and r.priority = any(array(select distinct command_priority(k) from unnest(of_kinds) k))
           and r.run_at <= now() and r.kind = any(of_kinds) and r.version <= up_to_version
           and (r.rescues < 3 or r.kind in ('kill_process', 'delete_function'))
           and (r.deadline is null or r.deadline > now())
           and exists (select from manager m where m.instance = by_instance and m.lease_until > now())
           and not exists (select from command_lease l where l.key = r.key offset 0)
           and not exists (select from command_ready older where older.key = r.key and older.seq + 0 < r.seq offset 0)
         order by r.priority, r.seq
         limit up_to
           for update of r skip locked
    ), taken as (
        delete from command_ready r using candidate c where r.ctid = c.place
        returning r.seq, r.cluster, r.kind, r.version, r.key, r.priority, r.attempts, r.rescues
    ), leased as (
        insert into command_lease (seq, cluster, kind, version, key, priority, instance, token, attempts, rescues)
        select seq, cluster, kind, version, key, priority, by_instance, nextval('fencing_token'), attempts, rescues from taken
        returning seq, token, attempts, priority
    )
    select c.seq, c.id, l.token, c.kind, c.function_name, c.revision_id, c.process_id, c.payload, l.attempts, c.trace_parent,
           c.created_at
      from leased l cross join lateral (select * from command c where c.seq = l.seq offset 0) c
     order by l.priority, l.seq;
end
$$;

create function claim_suspect(by_instance uuid, of_cluster text, up_to_version smallint) returns table (
    seq bigint, id uuid, token bigint, kind text, function_name text, revision_id uuid, process_id uuid, payload jsonb,
    attempts integer, trace_parent text, created_at timestamptz
)
language plpgsql
set search_path = public, pg_temp
as $$
#variable_conflict use_column
begin
    return query
    with candidate as materialized (
        select r.ctid as place
          from command_ready r
         where r.cluster = of_cluster and r.rescues >= 3 and r.kind not in ('kill_process', 'delete_function')
           and r.waits_for is null and r.run_at <= now() and r.version <= up_to_version
           and (r.deadline is null or r.deadline > now())
           and exists (select from manager m where m.instance = by_instance and m.lease_until > now())
           and not exists (select from command_lease l where l.key = r.key)
           and not exists (select from command_ready older where older.key = r.key and older.seq < r.seq)
         order by r.seq
         limit 1
           for update of r skip locked
    ), taken as (
        delete from command_ready r using candidate c where r.ctid = c.place
        returning r.seq, r.cluster, r.kind, r.version, r.key, r.priority, r.attempts, r.rescues
    ), leased as (
        insert into command_lease (seq, cluster, kind, version, key, priority, instance, token, attempts, rescues)
        select seq, cluster, kind, version, key, priority, by_instance, nextval('fencing_token'), attempts, rescues from taken
        returning seq, token, attempts
    )
    select c.seq, c.id, l.token, c.kind, c.function_name, c.revision_id, c.process_id, c.payload, l.attempts, c.trace_parent,
           c.created_at
      from leased l join command c on c.seq = l.seq;
end
$$;
comment on function claim_suspect is 'Gives a manager whose lease has not ended the oldest command of its cluster that managers died with three times or more.';

grant execute on function claim_suspect to octopus_manager;

reset role;
