-- Deadlines of commands, failed ones that are carried out again, and what is not as it is wanted.
set local role octopus_owner;

alter table command
    add column deadline_seconds integer check (deadline_seconds between 1 and 604800),
    add column requeues integer not null default 0,
    add column failures jsonb not null default '[]';
comment on column command.deadline_seconds is 'Seconds after created_at by which it must be begun. Null: there is no hurry.';
comment on column command.requeues is 'How often it was put back into the queue after it had failed.';
comment on column command.failures is 'How it failed before: a list of {reason, message, remedy, at, requeued_by}, the newest last, 20 at most.';

alter table command_ready add column deadline timestamptz;
comment on column command_ready.deadline is 'When it fails unless somebody begins it. Null: never; a claim takes it away.';
create index command_ready_deadline on command_ready (deadline) where deadline is not null;

grant insert (deadline_seconds) on command to octopus_api, octopus_manager;

-- A command's place in the queue.
create function make_ready(ready command) returns void
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
            case ready.kind when 'kill_process' then 0 when 'declare_function' then 20 else 10 end,
            ready.created_at + make_interval(secs => ready.deadline_seconds),
            (select r.id from revision r
              where ready.kind in ('start_process', 'update_process') and r.id = ready.revision_id and r.build_state <> 'ready'));
end
$$;
comment on function make_ready is 'Puts a command into the queue, with its key, its priority, its deadline and what it waits for.';

create or replace function queue_command() returns trigger
language plpgsql
security definer
set search_path = public, pg_temp
as $$
begin
    if new.state = 'waiting' then
        perform make_ready(new);
    end if;
    return null;
end
$$;

-- A failed command goes back to its place where doing it, or doing it again, is safe: an image is built from its input, and a
-- change makes a service what is wanted, unless a later one did so already. What a failed start leaves is gone for good.
create function accept_requeue_command(new command) returns command
language plpgsql
set search_path = public, pg_temp
as $$
declare
    target command;
    chosen revision;
begin
    select * into target from command where id = new.target_command for update;
    if not found then
        raise exception 'there is no command %', new.target_command using errcode = 'OC404';
    end if;
    if target.state <> 'failed' then
        raise exception 'command % has not failed: it is %', target.id, target.state
            using errcode = 'OC409', hint = 'Only what has failed can be carried out again.';
    end if;
    if target.kind in ('start_process', 'retry_process') then
        raise exception 'the process of command % is gone', target.id
            using errcode = 'OC409', hint = 'Start another one: POST /api/v1/functions/{name}/processes.';
    end if;
    select * into chosen from revision where id = target.revision_id for update;
    if target.kind = 'declare_function' then
        if exists (select from function where name = target.function_name and deleted_at is not null) then
            raise exception 'function % was deleted', target.function_name
                using errcode = 'OC409', hint = 'Declare it again: PUT /api/v1/functions/{name}.';
        end if;
        update revision set build_state = 'pending', build_reason = null, build_message = null, build_remedy = null, built_at = null
         where id = target.revision_id and build_state = 'failed';
    elsif target.kind in ('restart_process', 'update_process', 'scale_process') then
        perform changeable_service(target.process_id);
        if chosen.build_state = 'failed' then
            raise exception 'the image of revision % could not be built: %', chosen.number, chosen.build_message
                using errcode = 'OC409', hint = coalesce(chosen.build_remedy, 'Declare the function again.');
        end if;
        -- A claim that takes one of these at this moment is waited for, and seen by what follows.
        perform from command_ready where key = 'process:' || target.process_id for update;
        if exists (select from command later left join command_lease held on held.seq = later.seq
                    where later.process_id = target.process_id and later.seq > target.seq and later.kind like '%\_process'
                      and (later.state = 'succeeded' or held.seq is not null)) then
            raise exception 'a later change of process % was begun', target.process_id
                using errcode = 'OC409', hint = 'Ask for the change anew: it then comes after that one.';
        end if;
    else
        raise exception 'a command of kind % cannot be carried out again', target.kind using errcode = 'OC409';
    end if;
    update command
       set state = 'waiting', reason = null, message = null, remedy = null, finished_at = null, requeues = requeues + 1,
           -- It was to be begun by a time that has passed.
           deadline_seconds = null,
           failures = jsonb_path_query_array(
               failures || jsonb_build_object('reason', target.reason, 'message', target.message, 'remedy', target.remedy,
                                              'at', target.finished_at, 'requeued_by', new.requested_by),
               '$[last - 19 to last]')
     where seq = target.seq
    returning * into target;
    perform make_ready(target);
    new.cluster := target.cluster;
    new.function_name := target.function_name;
    new.state := 'succeeded';
    new.finished_at := now();
    return new;
end
$$;
comment on function accept_requeue_command is 'Puts a failed command back into the queue and keeps how it failed.';

create or replace function accept_command() returns trigger
language plpgsql
security definer
set search_path = public, pg_temp
as $$
begin
    new.state := 'waiting';
    if new.deadline_seconds is not null
       and new.kind not in ('declare_function', 'start_process', 'restart_process', 'update_process', 'scale_process') then
        raise exception 'a command of kind % has no deadline', new.kind using errcode = 'OC422';
    end if;
    case new.kind
        when 'declare_function' then new := accept_declare_function(new);
        when 'start_process' then new := accept_start_process(new);
        when 'kill_process' then new := accept_kill_process(new);
        when 'restart_process', 'scale_process' then new := accept_change_process(new);
        when 'update_process' then new := accept_update_process(new);
        when 'delete_function' then new := accept_delete_function(new);
        when 'cancel_command' then new := accept_cancel_command(new);
        when 'requeue_command' then new := accept_requeue_command(new);
        when 'retry_process' then new := accept_retry_process(new);
        else raise exception 'unknown kind of command %', new.kind using errcode = 'OC422';
    end case;
    if new.idempotency_key is not null then
        insert into idempotency (who, key, request_hash, command_id)
        values (new.requested_by, new.idempotency_key, new.request_hash, new.id);
    end if;
    return new;
end
$$;

-- Whoever finds that a deadline has passed ends what was not begun. A claim that is under way holds the row and is not waited for.
create function expire_commands(why text, words text, remedy_words text) returns setof uuid
language plpgsql
security definer
set search_path = public, pg_temp
as $$
declare
    late record;
begin
    for late in
        with expired as (
            select seq from command_ready where deadline <= now() order by seq limit 500 for update skip locked
        ), taken as (
            delete from command_ready r using expired e where r.seq = e.seq returning r.seq
        )
        update command c set state = 'failed', reason = why, message = words, remedy = remedy_words, finished_at = now()
          from taken where c.seq = taken.seq and c.state = 'waiting'
        returning c.id, c.kind, c.process_id, c.revision_id
    loop
        if late.kind = 'start_process' then
            perform transition(late.process_id, 'gone', 'failed', why, words, remedy_words);
            return next late.process_id;
        elsif late.kind = 'declare_function' then
            perform fail_revision(late.revision_id, why, words, remedy_words, null);
        end if;
        return next late.id;
    end loop;
end
$$;
comment on function expire_commands is 'Fails commands that nobody has begun by their deadline; answers them and the processes that end with them.';
grant execute on function expire_commands to octopus_manager;

-- As shared/src/service.rs has it.
create function wish(revision integer, restarted_at timestamptz) returns text
language sql stable
set search_path = public, pg_temp
as $$
    select revision || coalesce('/' || to_char(restarted_at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), '')
$$;
comment on function wish is 'What is wanted of a process, but for the number of its pods; its pods carry it.';
grant execute on function wish to octopus_api, octopus_manager;

create view drift as
with pods as (
    select p.id, count(d.uid) as live,
           count(d.uid) filter (where coalesce(d.wish, wish(r.number, p.restarted_at)) = wish(r.number, p.restarted_at)) as wanted,
           count(d.uid) filter (where d.state = 'ready'
                                  and coalesce(d.wish, wish(r.number, p.restarted_at)) = wish(r.number, p.restarted_at)) as ready
      from process p
      join revision r on r.id = p.revision_id
      left join pod d on d.process_id = p.id and d.gone_at is null and d.ended_at is null
     where p.lifecycle < 'gone'
     group by p.id
), seen as (
    select p.*, s.live, s.wanted, s.ready,
           exists (select from command_ready q where q.key in ('process:' || p.id, 'kill:' || p.id))
               or exists (select from command_lease q where q.key in ('process:' || p.id, 'kill:' || p.id)) as in_hand
      from process p join pods s on s.id = p.id
)
select id as process_id, cluster, function_name, name, 'extra' as what, in_hand, kill_requested_at as since,
       'it was asked to end and is ' || lifecycle as words
  from seen where desired = 'killed'
union all
select id, cluster, function_name, name, 'missing', in_hand, updated_at, 'nothing of it was made yet'
  from seen where desired = 'running' and lifecycle = 'requested'
union all
select id, cluster, function_name, name, 'missing', in_hand, updated_at,
       case when kind = 'service' then wanted || ' pods of the ' || replicas || ' that are wanted' else 'its pod' end
  from seen
 where desired = 'running' and lifecycle = 'created'
   and (kind = 'service' and wanted < replicas
        or kind = 'task' and live = 0 and state not in ('succeeded', 'failed'))
union all
select id, cluster, function_name, name, 'different', in_hand, updated_at,
       (live - wanted) || ' pods are of an earlier revision or restart'
  from seen where desired = 'running' and lifecycle = 'created' and kind = 'service' and live > wanted
union all
select id, cluster, function_name, name, 'extra', in_hand, updated_at, wanted || ' pods instead of ' || replicas
  from seen where desired = 'running' and lifecycle = 'created' and kind = 'service' and wanted > replicas
union all
select id, cluster, function_name, name, 'stuck', in_hand, updated_at, coalesce(reason || ': ' || message, reason, state)
  from seen
 where desired = 'running' and lifecycle = 'created'
   and (state = 'failing' or reason in ('rollout_hindered', 'unschedulable', 'insufficient_gpu', 'volume_not_found', 'volume_pending'));
comment on view drift is 'Processes that are not seen as they are wanted. Most of it passes: since says for how long it has been so, in_hand whether a command of it waits or is carried out.';
grant select on drift to octopus_api, octopus_manager;

reset role;
