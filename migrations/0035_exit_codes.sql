-- An exit code is that of the end that is shown, and chunks that are dropped keep their numbers.
set local role octopus_owner;

create or replace function transition(
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
       or (to_lifecycle = current.lifecycle and current.lifecycle = 'gone') then
        return false;
    end if;
    if (to_lifecycle, to_state, why) is not distinct from (current.lifecycle, current.state, current.reason) then
        update process set message = words where id = target and says_more(words, message);
        return false;
    end if;
    update process
       set lifecycle = to_lifecycle, state = to_state, reason = why, message = words, remedy = remedy_words,
           exit_code = case when (to_state, why) is not distinct from (current.state, current.reason) then coalesce(code, exit_code) else code end,
           last_event = last_event + 1, updated_at = clock_timestamp(),
           gone_at = case when to_lifecycle = 'gone' then clock_timestamp() end
     where id = target;
    insert into process_event (process_id, number, day, at, cluster, lifecycle, state, reason, message, remedy, exit_code,
                               pod_uid, resource_version)
    values (target, current.last_event + 1, (clock_timestamp() at time zone 'utc')::date, clock_timestamp(), current.cluster,
            to_lifecycle, to_state, why, words, remedy_words, code, seen_on_pod, seen_version);
    return true;
end
$$;
comment on function transition is 'Moves a process forward and appends the event. False when nothing but the words changed: those are replaced.';

create or replace function transitions(
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
        select a.*, p.last_event + 1 as number, p.cluster, clock_timestamp() as at,
               (a.lifecycle, a.state, a.reason) is distinct from (p.lifecycle, p.state, p.reason) as is_new
          from unnest(targets, to_lifecycles, to_states, whys, words, remedies, codes, seen_on_pods, seen_versions)
               as a (target, lifecycle, state, reason, message, remedy, exit_code, pod_uid, resource_version)
          join process p on p.id = a.target
         where a.lifecycle >= p.lifecycle and p.lifecycle < 'gone'
           and ((a.lifecycle, a.state, a.reason) is distinct from (p.lifecycle, p.state, p.reason)
                or says_more(a.message, p.message))
    ), moved as (
        update process p
           set lifecycle = m.lifecycle, state = m.state, reason = m.reason, message = m.message, remedy = m.remedy,
               exit_code = case when (m.state, m.reason) is not distinct from (p.state, p.reason) then coalesce(m.exit_code, p.exit_code)
                                else m.exit_code end,
               last_event = m.number, updated_at = m.at,
               gone_at = case when m.lifecycle = 'gone' then m.at end
          from move m where p.id = m.target and m.is_new
    ), told as (
        update process p set message = m.message from move m where p.id = m.target and not m.is_new
    )
    insert into process_event (process_id, number, day, at, cluster, lifecycle, state, reason, message, remedy, exit_code, pod_uid,
                               resource_version)
    select m.target, m.number, (m.at at time zone 'utc')::date, m.at, m.cluster, m.lifecycle, m.state, m.reason, m.message, m.remedy,
           m.exit_code, m.pod_uid, m.resource_version
      from move m where m.is_new;
end
$$;

comment on column log_stream.reserved_seq is 'No other chunk of the process gets a number up to this one: chunks with these were dropped, or may still come out of a spool, to the end of this stream.';

create or replace function keep_log_ends(partition text) returns void
language plpgsql
set search_path = public, pg_temp
as $$
begin
    execute format($copy$
        insert into log_kept (function_name, process_id, data, encoding, seq)
        select distinct on (p.function_name) p.function_name, p.id, c.data, c.encoding, c.seq
          from %I c join process p on p.id = c.process_id
         order by p.function_name, p.created_at desc, p.id desc, c.seq desc
        on conflict (function_name) do update
           set process_id = excluded.process_id, data = excluded.data, encoding = excluded.encoding, seq = excluded.seq,
               kept_at = now()
           -- An earlier run may have printed on a later day.
         where (select (p.created_at, p.id, excluded.seq) from process p where p.id = excluded.process_id)
               > (select (p.created_at, p.id, log_kept.seq) from process p where p.id = log_kept.process_id)
        $copy$, partition);
    -- Readers go on by these numbers, so none is given twice.
    execute format($numbers$
        update log_stream s set reserved_seq = greatest(s.reserved_seq, c.last)
          from (select pod_uid, container, restart, max(seq) as last from %I group by pod_uid, container, restart) c
         where (s.pod_uid, s.container, s.restart) = (c.pod_uid, c.container, c.restart)
        $numbers$, partition);
end
$$;
comment on function keep_log_ends is 'Copies the end of each function''s newest run out of a partition that is to be dropped, and keeps the numbers of its chunks from being given again.';

reset role;
