-- Commands age out by dropped days, as events and logs do.
--
-- The order of a command says its day: the sequence jumps to day << 40 when a day begins, so that a partition is a range of the
-- order, and whoever knows a command's order needs one partition's index. The jump is made by who makes the partition: without
-- managers the last day goes on, and no command falls outside.
set local role octopus_owner;

create index idempotency_by_age on idempotency (created_at);

create function day_begins(day date) returns bigint
language sql immutable
return (day - date '1970-01-01')::bigint << 40;
comment on function day_begins is 'The lowest order of the commands of a UTC day.';

create sequence command_seq;

do $$
declare
    today date := (now() at time zone 'utc')::date;
    -- Named as the day before: it holds what came earlier.
    earlier text := 'command' || to_char(today - 1, '_YYYYMMDD');
    bound jsonb;
    one jsonb;
begin
    -- Functions that take a command are bound to the table's row type. They are made again, word for word, for the new one.
    select jsonb_agg(jsonb_build_object('signature', p.oid::regprocedure, 'definition', pg_get_functiondef(p.oid),
                                        'words', obj_description(p.oid)))
      into bound
      from pg_proc p
     where p.pronamespace = 'public'::regnamespace
       and 'command'::regtype = any(array_append(p.proargtypes::oid[], p.prorettype));
    for one in select jsonb_array_elements(bound) loop
        execute 'drop function ' || (one ->> 'signature');
    end loop;

    -- What there is becomes the first partition.
    drop trigger command_accept on command;
    drop trigger command_queue on command;
    alter table command alter column seq drop identity;
    alter table command rename to command_before;
    alter index command_by_process rename to command_before_by_process;
    alter index command_pkey rename to command_before_pkey;
    create table command (like command_before including defaults including constraints including comments, primary key (seq))
        partition by range (seq);
    alter table command alter column seq set default nextval('command_seq');
    create index command_by_id on command (id);
    create index command_by_process on command (process_id) where process_id is not null;
    -- Partitions are reached through their parent only.
    revoke all on command_before from octopus_api, octopus_manager;
    execute format('alter table command_before rename to %I', earlier);
    execute format('alter table command attach partition %I for values from (minvalue) to (%L)', earlier, day_begins(today));

    for one in select jsonb_array_elements(bound) loop
        execute one ->> 'definition';
        execute format('comment on function %s is %L', one ->> 'signature', one ->> 'words');
    end loop;
end
$$;
comment on table command is 'What somebody asked for, and how it ended.';
comment on column command.seq is 'The order: given by Postgres. The day on which its partition was begun, in days since 1970 and shifted by 40 bits, and a counter.';
alter sequence command_seq owned by command.seq;
create table command_default partition of command default;
comment on table command_default is 'Takes rows whose order has no partition. Alert when it is not empty.';

create trigger command_accept before insert on command for each row execute function accept_command();
create trigger command_queue after insert on command for each row execute function queue_command();

grant select on command to octopus_api, octopus_manager;
grant insert (id, cluster, kind, version, function_name, revision_id, process_id, target_command, payload, requested_by,
              idempotency_key, request_hash, trace_parent, deadline_seconds) on command to octopus_api, octopus_manager;
grant update (state, reason, message, remedy, finished_at) on command to octopus_manager;
grant usage on sequence command_seq to octopus_api, octopus_manager;

create function partition_storage(parent text) returns text
language sql immutable
return case parent when 'command' then 'with (fillfactor = 50)' else '' end;
comment on function partition_storage is 'Storage settings of the partitions of a table.';

create function keep_log_ends(partition text) returns void
language plpgsql
set search_path = public, pg_temp
as $$
begin
    execute format($copy$
        insert into log_kept (function_name, process_id, data)
        select distinct on (p.function_name) p.function_name, p.id, c.data
          from %I c join process p on p.id = c.process_id
         order by p.function_name, p.created_at desc, p.id desc, c.seq desc
        on conflict (function_name) do update
           set process_id = excluded.process_id, data = excluded.data, kept_at = now()
        $copy$, partition);
end
$$;
comment on function keep_log_ends is 'Copies the end of each function''s newest run out of a partition that is to be dropped.';

-- One table in one transaction, since each new or dropped partition locks its parent, and no wait for such a lock is long: what
-- was not done now is done at the next call.
create function maintain_partitions(keep_days integer, parent text) returns void
language plpgsql
security definer
set search_path = public, pg_temp
set lock_timeout = '2s'
as $$
declare
    today date := (now() at time zone 'utc')::date;
    wanted date;
    partition record;
    bounds text;
    live boolean;
begin
    if keep_days < 1 then
        raise exception 'keep_days must be at least 1, not %', keep_days using errcode = 'OC422';
    end if;
    if parent not in ('command', 'process_event', 'log_chunk') then
        raise exception '% has no partitions by day', parent using errcode = 'OC422';
    end if;
    -- Managers of all clusters call this; one at a time is enough.
    if not pg_try_advisory_xact_lock(hashtext('maintain_partitions')) then
        return;
    end if;
    for wanted in select generate_series(today, today + 7, '1 day')::date loop
        if to_regclass(format('%I', parent || to_char(wanted, '_YYYYMMDD'))) is null then
            -- Rows that fell into the default partition would make this fail; they stay there, the day is skipped.
            begin
                bounds := case parent when 'command' then format('(%L) to (%L)', day_begins(wanted), day_begins(wanted + 1))
                                      else format('(%L) to (%L)', wanted, wanted + 1) end;
                execute format('create table %I partition of %I for values from %s %s',
                               parent || to_char(wanted, '_YYYYMMDD'), parent, bounds, partition_storage(parent));
            exception when check_violation or duplicate_table or lock_not_available then
                null;
            end;
        end if;
    end loop;
    if parent = 'command' then
        if to_regclass('command' || to_char(today, '_YYYYMMDD')) is not null
           and (select last_value from command_seq) < day_begins(today) then
            perform setval('command_seq', day_begins(today));
        end if;
        -- Keys of requests whose commands are dropped; a batch of them, the rest at the next call.
        delete from idempotency i using (
            select who, key from idempotency where created_at < now() - make_interval(days => keep_days + 1)
             order by created_at limit 20000) old
         where i.who = old.who and i.key = old.key;
    end if;
    for partition in
        select c.relname, to_date(right(c.relname, 8), 'YYYYMMDD') as day
          from pg_inherits i join pg_class c on c.oid = i.inhrelid
         where i.inhparent = to_regclass(parent) and c.relname ~ '_[0-9]{8}$'
           and to_date(right(c.relname, 8), 'YYYYMMDD') < today - keep_days
    loop
        begin
            if parent = 'command' then
                -- As dropping does it and as whoever reads: the parent first, or the two would wait for each other.
                lock table only command in access exclusive mode;
                execute format('lock table %I in access exclusive mode', partition.relname);
                -- Nothing that waits or is worked on, and nothing younger: without managers a day goes on.
                execute format($live$
                    select exists (select from command_ready q where q.seq < $1 and exists (select from %1$I c where c.seq = q.seq))
                        or exists (select from command_lease q where q.seq < $1 and exists (select from %1$I c where c.seq = q.seq))
                        or (select c.created_at >= now() - make_interval(days => $2) from %1$I c order by c.seq desc limit 1)
                    $live$, partition.relname)
                   into live using day_begins(partition.day + 1), keep_days;
                continue when live;
            elsif parent = 'log_chunk' then
                perform keep_log_ends(partition.relname);
            end if;
            execute format('drop table %I', partition.relname);
        exception when lock_not_available then
            null;
        end;
    end loop;
end
$$;
comment on function maintain_partitions(integer, text) is 'Makes the partitions of a table for the coming days and drops those older than keep_days; of commands only those in which nothing waits or is worked on. Owned by the owner, called by managers.';

-- For managers of earlier releases.
create or replace function maintain_partitions(keep_days integer) returns void
language plpgsql
security definer
set search_path = public, pg_temp
as $$
begin
    perform maintain_partitions(keep_days, parent) from unnest(array['command', 'process_event', 'log_chunk']) parent;
end
$$;
grant execute on function maintain_partitions(integer, text) to octopus_manager;
select maintain_partitions(14, 'command');

reset role;
