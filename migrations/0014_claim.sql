-- The two statements that every command passes, planned once in each session and in the same way whatever the tables held then.
set local role octopus_owner;

-- Each claim locked the row of its manager for this, fifty times a batch. Managers are never deleted, and a claim looks for its
-- own with a lease that has not ended.
alter table command_lease drop constraint command_lease_instance_fkey;

create function command_priority(kind text) returns smallint
language sql immutable
return case kind when 'kill_process' then 0 when 'declare_function' then 20 else 10 end;
comment on function command_priority is 'Lower first: 0 for kills, 10 for starts and changes, 20 for builds.';

create or replace function make_ready(ready command) returns void
language plpgsql
set search_path = public, pg_temp
as $$
begin
    insert into command_ready (seq, cluster, kind, version, key, priority, deadline, waits_for)
    values (ready.seq, ready.cluster, ready.kind, ready.version,
            case ready.kind
                when 'declare_function' then 'revision:' || ready.revision_id
                when 'kill_process' then 'kill:' || ready.process_id
                when 'delete_function' then 'function:' || ready.function_name
                else 'process:' || ready.process_id
            end,
            command_priority(ready.kind),
            ready.created_at + make_interval(secs => ready.deadline_seconds),
            (select r.id from revision r
              where ready.kind in ('start_process', 'update_process') and r.id = ready.revision_id and r.build_state <> 'ready'));
end
$$;

-- A plan is kept for the life of a session and may have been made while the tables were empty, when every plan seems good. So
-- what would be bad later is switched off, and each look is written so that one index alone can serve it: `offset 0` keeps the
-- planner from making a join of it, and `seq + 0` keeps it from the primary key.
create function claim_commands(
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
comment on function claim_commands is 'Gives a manager whose lease has not ended up to up_to commands of its cluster and kinds, the most urgent first, of those whose seq is above a number.';

create function finish_commands(seqs bigint[], tokens bigint[], states text[], reasons text[], messages text[], remedies text[])
returns setof bigint
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
    return query
    with ended as materialized (
        select e.seq, e.state, e.reason, e.message, e.remedy, l.place
          from unnest(seqs, tokens, states, reasons, messages, remedies) e (seq, token, state, reason, message, remedy)
         cross join lateral (
               select l.ctid as place from command_lease l where l.seq = e.seq and l.token = e.token offset 0) l
    ), ours as (
        -- Leases are made and deleted and never changed, so a row that is gone from its place is nobody's.
        delete from command_lease l using ended e where l.ctid = e.place
        returning e.seq, e.state, e.reason, e.message, e.remedy
    )
    update command c
       set state = e.state, reason = e.reason, message = e.message, remedy = e.remedy, finished_at = now()
      from ours e
     where c.seq = e.seq and c.state = 'waiting'
    returning c.seq;
end
$$;
comment on function finish_commands is 'Ends commands whose claims have these tokens still, and answers which; of the others nothing is written.';

grant execute on function command_priority, claim_commands, finish_commands to octopus_manager;

reset role;
