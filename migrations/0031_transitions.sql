-- Creations and transitions of many processes by a few statements for all of them, and no longer by several for each.
set local role octopus_owner;

create function transitions(
    targets uuid[],
    to_lifecycles process_lifecycle[],
    to_states text[],
    whys text[],
    words text[],
    remedies text[],
    codes integer[],
    seen_on_pods text[],
    seen_versions text[]
) returns void
language plpgsql
set search_path = public, pg_temp
as $$
begin
    perform from process where id = any(targets) order by id for update;
    with move as (
        select a.*, p.last_event + 1 as number, p.cluster, clock_timestamp() as at
          from unnest(targets, to_lifecycles, to_states, whys, words, remedies, codes, seen_on_pods, seen_versions)
               as a (target, lifecycle, state, reason, message, remedy, exit_code, pod_uid, resource_version)
          join process p on p.id = a.target
         where a.lifecycle >= p.lifecycle and p.lifecycle < 'gone'
           and (a.lifecycle, a.state, a.reason) is distinct from (p.lifecycle, p.state, p.reason)
    ), moved as (
        update process p
           set lifecycle = m.lifecycle, state = m.state, reason = m.reason, message = m.message, remedy = m.remedy,
               exit_code = coalesce(m.exit_code, p.exit_code), last_event = m.number, updated_at = m.at,
               gone_at = case when m.lifecycle = 'gone' then m.at end
          from move m where p.id = m.target
    )
    insert into process_event (process_id, number, day, at, cluster, lifecycle, state, reason, message, remedy, exit_code, pod_uid,
                               resource_version)
    select m.target, m.number, (m.at at time zone 'utc')::date, m.at, m.cluster, m.lifecycle, m.state, m.reason, m.message, m.remedy,
           m.exit_code, m.pod_uid, m.resource_version
      from move m;
end
$$;
comment on function transitions is 'What transition does, of many processes, each at most once.';
grant execute on function transitions to octopus_manager;

create or replace function report_created(seqs bigint[], tokens bigint[], processes uuid[], manifests jsonb[], endpoints text[])
returns setof bigint
language plpgsql
set search_path = public, pg_temp
as $$
declare
    ours bigint[];
    fresh uuid[];
begin
    -- The claims are ours, and stay ours to the end of the transaction.
    select array_agg(seq) into ours
      from (select l.seq from command_lease l join unnest(seqs, tokens) as c (seq, token) using (seq, token)
             order by l.seq for update of l) held;
    perform from process where id = any(processes) order by id for update;
    update process p set manifest = c.manifest, endpoint = c.endpoint
      from unnest(seqs, processes, manifests, endpoints) as c (seq, process, manifest, endpoint)
     where p.id = c.process and c.seq = any(ours) and p.lifecycle < 'gone';
    -- The watch may have seen a pod before its creation is reported: then it knows more.
    select array_agg(p.id) into fresh
      from process p join unnest(seqs, processes) as c (seq, process) on c.process = p.id
     where c.seq = any(ours) and p.lifecycle = 'requested';
    if fresh is not null then
        perform transitions(fresh, array_fill('created'::process_lifecycle, array[cardinality(fresh)]),
                            array_fill('starting'::text, array[cardinality(fresh)]), null, null, null, null, null, null);
    end if;
    return query select unnest(ours);
end
$$;

reset role;
