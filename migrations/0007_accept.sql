-- What a 202 promises is written in the transaction that stores the command, by code of the owner: the API may only
-- insert. Errors carry the SQLSTATEs OC404, OC409 and OC422, which the API turns into answers of that status.
set local role octopus_owner;

-- New function, or a new revision of a known one.
create function accept_declare_function(new command) returns command
language plpgsql
set search_path = public, pg_temp
as $$
declare
    declared function;
begin
    insert into function (name, cluster, last_revision) values (new.function_name, new.cluster, 1)
    on conflict (name) do update set last_revision = function.last_revision + 1, deleted_at = null
    returning * into declared;
    if declared.cluster <> new.cluster then
        raise exception 'function % runs on cluster %, not on %', declared.name, declared.cluster, new.cluster
            using errcode = 'OC409', hint = 'Declare it under another name, or leave out "cluster".';
    end if;
    insert into revision (id, function_name, number, spec, bundle)
    values (new.revision_id, new.function_name, declared.last_revision, new.payload -> 'spec',
            decode(new.payload ->> 'bundle', 'hex'));
    return new;
end
$$;

-- A process that can be read at once. It waits for its revision's image when that is still being built.
create function accept_start_process(new command) returns command
language plpgsql
set search_path = public, pg_temp
as $$
declare
    wanted function;
    chosen revision;
begin
    select * into wanted from function where name = new.function_name and deleted_at is null;
    if not found then
        raise exception 'there is no function %', new.function_name
            using errcode = 'OC404', hint = 'Declare it first: PUT /api/v1/functions/{name}.';
    end if;
    -- The lock orders this against the end of the build, which updates the row.
    select * into chosen from revision
     where function_name = wanted.name and number = coalesce((new.payload ->> 'revision')::integer, wanted.last_revision)
       for share;
    if not found then
        raise exception 'function % has no revision %', wanted.name, new.payload ->> 'revision'
            using errcode = 'OC404', hint = 'GET /api/v1/functions/{name} lists its revisions.';
    end if;
    if chosen.build_state = 'failed' then
        raise exception 'the image of revision % of % could not be built: %', chosen.number, wanted.name, chosen.build_message
            using errcode = 'OC409', hint = coalesce(chosen.build_remedy, 'Declare the function again.');
    end if;
    insert into process (id, function_name, revision_id, cluster, kind, name, spec, requested_by)
    values (new.process_id, wanted.name, chosen.id, wanted.cluster, new.payload ->> 'kind',
            wanted.name || '-' || right(new.process_id::text, 12), new.payload -> 'spec', new.requested_by);
    insert into process_event (process_id, number, day, at, cluster, lifecycle, state, reason)
    values (new.process_id, 1, (clock_timestamp() at time zone 'utc')::date, clock_timestamp(), wanted.cluster, 'requested',
            'pending', case when chosen.build_state <> 'ready' then 'waiting_for_image' end);
    update process set last_event = 1, reason = case when chosen.build_state <> 'ready' then 'waiting_for_image' end
     where id = new.process_id;
    new.cluster := wanted.cluster;
    new.revision_id := chosen.id;
    return new;
end
$$;

-- The wish is stored here, so everything that is under way sees it at its next look, before any manager claims the kill.
create function accept_kill_process(new command) returns command
language plpgsql
set search_path = public, pg_temp
as $$
declare
    target process;
    grace integer := (new.payload ->> 'grace_seconds')::integer;
begin
    select * into target from process where id = new.process_id for update;
    if not found then
        raise exception 'there is no process %', new.process_id using errcode = 'OC404', hint = 'GET /api/v1/processes lists them.';
    end if;
    update process
       set desired = 'killed', kill_requested_at = coalesce(kill_requested_at, now()),
           kill_grace_seconds = least(kill_grace_seconds, grace),
           kill_force = kill_force or coalesce((new.payload ->> 'force')::boolean, false)
     where id = target.id;
    new.cluster := target.cluster;
    new.function_name := target.function_name;
    return new;
end
$$;

create function accept_delete_function(new command) returns command
language plpgsql
set search_path = public, pg_temp
as $$
declare
    target function;
begin
    update function set deleted_at = now() where name = new.function_name and deleted_at is null returning * into target;
    if not found then
        raise exception 'there is no function %', new.function_name using errcode = 'OC404', hint = 'GET /api/v1/functions lists them.';
    end if;
    insert into command (id, kind, process_id, payload, requested_by, trace_parent)
    select gen_random_uuid(), 'kill_process', p.id, '{}', new.requested_by, new.trace_parent
      from process p where p.function_name = target.name and p.lifecycle < 'gone' and p.desired = 'running';
    new.cluster := target.cluster;
    return new;
end
$$;

-- Managers ask for it in the transaction that counts the attempt up. From anybody else it finds no attempt to make.
create function accept_retry_process(new command) returns command
language plpgsql
set search_path = public, pg_temp
as $$
begin
    if not exists (
        select from process p
         where p.id = new.process_id and p.attempt > 1 and p.desired = 'running' and p.state = 'failing'
           and not exists (select from pod d where d.process_id = p.id and d.attempt = p.attempt)
           and not exists (select from command c
                            where c.process_id = p.id and c.kind = 'retry_process' and c.state = 'waiting')
    ) then
        raise exception 'process % has no attempt to make', new.process_id using errcode = 'OC409';
    end if;
    return new;
end
$$;

-- A command that no manager has claimed ends here and now; one that is claimed can no longer be cancelled.
create function accept_cancel_command(new command) returns command
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
    if target.kind not in ('declare_function', 'start_process') then
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

-- A revision whose image will never be: what waited for it fails with the same words.
create function fail_revision(target uuid, why text, words text, remedy_words text, log text) returns void
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
        delete from command_ready r using command c where r.waits_for = target and c.seq = r.seq returning c.seq, c.process_id
    loop
        update command set state = 'failed', reason = 'image_build_failed', message = words, remedy = remedy_words,
                           finished_at = now()
         where seq = waiting.seq;
        perform transition(waiting.process_id, 'gone', 'failed', 'image_build_failed', words, remedy_words);
    end loop;
end
$$;
comment on function fail_revision is 'Ends a revision''s build and everything that waited for its image.';

create function accept_command() returns trigger
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

create function queue_command() returns trigger
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
                  where new.kind = 'start_process' and r.id = new.revision_id and r.build_state <> 'ready'));
    end if;
    return null;
end
$$;

create trigger command_accept before insert on command for each row execute function accept_command();
create trigger command_queue after insert on command for each row execute function queue_command();

grant execute on function fail_revision to octopus_manager;

reset role;
