-- Changes of a service that runs: restart, update to another revision, scale.
set local role octopus_owner;

alter table process
    add column replicas integer not null default 1 check (replicas between 0 and 100),
    add column restarted_at timestamptz;
comment on column process.revision_id is 'The revision that is wanted. An update changes it when it is carried out.';
comment on column process.replicas is 'Pods of a service that are wanted.';
comment on column process.restarted_at is 'When its newest restart was asked for, once that is carried out. Its pods carry it, so a restart that is repeated is one.';

alter table pod add column wish text;
comment on column pod.wish is 'What was wanted of its process when it was made: number of the revision and time of the restart, from the pod. Null: seen by an earlier release.';

-- A service that can be changed. The lock orders a change against a kill.
create function changeable_service(target uuid) returns process
language plpgsql
set search_path = public, pg_temp
as $$
declare
    found_process process;
begin
    select * into found_process from process where id = target for update;
    if not found then
        raise exception 'there is no process %', target using errcode = 'OC404', hint = 'GET /api/v1/processes lists them.';
    end if;
    if found_process.kind <> 'service' then
        raise exception 'process % is a task: it runs once, as it was started', target
            using errcode = 'OC409', hint = 'Start another task: POST /api/v1/functions/' || found_process.function_name || '/processes.';
    end if;
    if found_process.desired <> 'running' or found_process.lifecycle > 'created' then
        raise exception 'process % is %', target,
                case when found_process.lifecycle = 'gone' then 'gone' else 'being ended' end
            using errcode = 'OC409', hint = 'Start another one: POST /api/v1/functions/' || found_process.function_name || '/processes.';
    end if;
    return found_process;
end
$$;
comment on function changeable_service is 'Locks a service that runs and is to run on; refuses everything else with what to do instead.';

-- Restart and scale. What they ask for is stored in the process when a manager carries them out, in the order of the queue.
create function accept_change_process(new command) returns command
language plpgsql
set search_path = public, pg_temp
as $$
declare
    target process := changeable_service(new.process_id);
begin
    new.cluster := target.cluster;
    new.function_name := target.function_name;
    return new;
end
$$;
comment on function accept_change_process is 'Accepts a restart or a new number of replicas.';

-- An update waits for its revision's image when that is still being built; the service runs on as it is meanwhile.
create function accept_update_process(new command) returns command
language plpgsql
set search_path = public, pg_temp
as $$
declare
    target process := changeable_service(new.process_id);
    chosen revision;
begin
    -- The lock orders this against the end of the build, which updates the row.
    select r.* into chosen from revision r join function f on f.name = r.function_name
     where r.function_name = target.function_name
       and r.number = coalesce((new.payload ->> 'revision')::integer, f.last_revision)
       for share of r;
    if not found then
        raise exception 'function % has no revision %', target.function_name, new.payload ->> 'revision'
            using errcode = 'OC404', hint = 'GET /api/v1/functions/{name} lists its revisions.';
    end if;
    if chosen.build_state = 'failed' then
        raise exception 'the image of revision % of % could not be built: %', chosen.number, target.function_name, chosen.build_message
            using errcode = 'OC409', hint = coalesce(chosen.build_remedy, 'Declare the function again.');
    end if;
    new.cluster := target.cluster;
    new.function_name := target.function_name;
    new.revision_id := chosen.id;
    return new;
end
$$;
comment on function accept_update_process is 'Accepts an update to a revision that is built or will be.';

-- As in 0007, but only a start takes its process with it: an update that will never have its image leaves a service that runs.
create or replace function fail_revision(target uuid, why text, words text, remedy_words text, log text) returns void
language plpgsql
security definer
set search_path = public, pg_temp
as $$
declare
    waiting record;
begin
    update revision set build_state = 'failed', build_reason = why, build_message = words, build_remedy = remedy_words,
                        build_log = coalesce(log, build_log), built_at = now()
     where id = target and build_state <> 'ready';
    for waiting in
        delete from command_ready r using command c where r.waits_for = target and c.seq = r.seq
        returning c.seq, c.kind, c.process_id
    loop
        update command set state = 'failed', reason = 'image_build_failed', message = words, remedy = remedy_words,
                           finished_at = now()
         where seq = waiting.seq;
        if waiting.kind = 'start_process' then
            perform transition(waiting.process_id, 'gone', 'failed', 'image_build_failed', words, remedy_words);
        end if;
    end loop;
end
$$;

-- As in 0007, with the changes of a service.
create or replace function accept_cancel_command(new command) returns command
language plpgsql
set search_path = public, pg_temp
as $$
declare
    target command;
begin
    select * into target from command where id = new.target_command for update;
    if not found then
        raise exception 'there is no command %', new.target_command using errcode = 'OC404';
    end if;
    if target.kind not in ('declare_function', 'start_process', 'restart_process', 'update_process', 'scale_process') then
        raise exception 'a command of kind % cannot be cancelled', target.kind using errcode = 'OC409';
    end if;
    delete from command_ready where seq = target.seq;
    if not found and target.state <> 'cancelled' then
        raise exception 'command % can no longer be cancelled: it is %', target.id,
                case target.state when 'waiting' then 'being carried out' else target.state end
            using errcode = 'OC409', hint = 'A process that was started is ended with POST /api/v1/processes/{id}/kill.';
    end if;
    update command set state = 'cancelled', reason = 'cancelled', message = 'cancelled by ' || new.requested_by,
                       finished_at = now()
     where seq = target.seq and state = 'waiting';
    if target.kind = 'start_process' then
        update process set desired = 'killed', kill_requested_at = coalesce(kill_requested_at, now()) where id = target.process_id;
        perform transition(target.process_id, 'gone', 'killed', 'cancelled', 'cancelled before it was created');
    elsif target.kind = 'declare_function' then
        perform fail_revision(target.revision_id, 'cancelled', 'the build was cancelled', 'Declare the function again.', null);
    end if;
    new.cluster := target.cluster;
    new.state := 'succeeded';
    new.finished_at := now();
    return new;
end
$$;

create or replace function accept_command() returns trigger
language plpgsql
security definer
set search_path = public, pg_temp
as $$
begin
    new.state := 'waiting';
    case new.kind
        when 'declare_function' then new := accept_declare_function(new);
        when 'start_process' then new := accept_start_process(new);
        when 'kill_process' then new := accept_kill_process(new);
        when 'restart_process', 'scale_process' then new := accept_change_process(new);
        when 'update_process' then new := accept_update_process(new);
        when 'delete_function' then new := accept_delete_function(new);
        when 'cancel_command' then new := accept_cancel_command(new);
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

create or replace function queue_command() returns trigger
language plpgsql
security definer
set search_path = public, pg_temp
as $$
begin
    if new.state = 'waiting' then
        insert into command_ready (seq, cluster, kind, version, key, priority, waits_for)
        values (new.seq, new.cluster, new.kind, new.version,
                case new.kind
                    when 'declare_function' then 'revision:' || new.revision_id
                    when 'kill_process' then 'kill:' || new.process_id
                    when 'delete_function' then 'function:' || new.function_name
                    else 'process:' || new.process_id
                end,
                case new.kind when 'kill_process' then 0 when 'declare_function' then 20 else 10 end,
                (select r.id from revision r
                  where new.kind in ('start_process', 'update_process') and r.id = new.revision_id and r.build_state <> 'ready'));
    end if;
    return null;
end
$$;

grant update (revision_id, replicas, restarted_at) on process to octopus_manager;

reset role;
