-- What functions printed: bytes, exactly once, with a cursor per container run.
set local role octopus_owner;

create table log_stream (
    process_id uuid not null references process (id),
    pod_uid text not null,
    container text not null,
    restart integer not null,
    attempt integer not null,
    reader text not null default 'follow' check (reader in ('follow', 'poll', 'previous')),
    cursor_time bigint,
    cursor_count integer not null default 0,
    cursor_hash bytea,
    lines bigint not null default 0,
    bytes bigint not null default 0,
    first_at timestamptz,
    last_at timestamptz,
    seal text check (seal in ('complete', 'gap', 'truncated')),
    seal_reason text,
    seal_end text check (seal_end in ('seen', 'inferred', 'unknown')),
    gaps jsonb not null default '[]',
    sealed_at timestamptz,
    created_at timestamptz not null default now(),
    primary key (pod_uid, container, restart)
) with (fillfactor = 50);
comment on table log_stream is 'One run of one container: how far its log was read, and whether all of it is there.';
comment on column log_stream.process_id is 'The process.';
comment on column log_stream.pod_uid is 'The pod.';
comment on column log_stream.container is 'The container''s name.';
comment on column log_stream.restart is 'Its restart count: each run of a container is a stream of its own.';
comment on column log_stream.attempt is 'Attempt of the process.';
comment on column log_stream.reader is 'follow: pushed by the kubelet. poll: read again and again. previous: read after a restart.';
comment on column log_stream.cursor_time is 'Timestamp of the last stored line, nanoseconds since 1970.';
comment on column log_stream.cursor_count is 'Lines stored with exactly that timestamp: two lines can share one.';
comment on column log_stream.cursor_hash is 'SHA-256 of the last stored line: a resumed read must meet it again, else there is a gap.';
comment on column log_stream.lines is 'Lines stored.';
comment on column log_stream.bytes is 'Bytes stored, without the timestamps.';
comment on column log_stream.first_at is 'Timestamp of the first line.';
comment on column log_stream.last_at is 'Timestamp of the last line.';
comment on column log_stream.seal is 'Null while open; complete: every byte is stored; gap: some are known to be missing; truncated: cut by a cap.';
comment on column log_stream.seal_reason is 'Why, where the seal is not complete.';
comment on column log_stream.seal_end is 'How the end of the container was known: seen in its status, inferred from its silent log, or unknown.';
comment on column log_stream.gaps is 'Known holes: {from, to, reason}, times in nanoseconds since 1970, null where unknown.';
comment on column log_stream.sealed_at is 'When it was sealed. Its pod is not deleted before.';
comment on column log_stream.created_at is 'When reading began.';
create index log_stream_open on log_stream (process_id) where seal is null;
create index log_stream_by_process on log_stream (process_id);

create table log_chunk (
    process_id uuid not null,
    seq bigint not null,
    day date not null,
    pod_uid text not null,
    container text not null,
    restart integer not null,
    lines integer not null,
    first_at timestamptz not null,
    last_at timestamptz not null,
    data bytea not null,
    primary key (process_id, seq, day)
) partition by range (day);
comment on table log_chunk is 'Lines as they were read, many to a row.';
comment on column log_chunk.process_id is 'The process.';
comment on column log_chunk.seq is 'Order within the process, given by the one fenced writer.';
comment on column log_chunk.day is 'UTC day: the partition.';
comment on column log_chunk.pod_uid is 'The pod.';
comment on column log_chunk.container is 'The container''s name.';
comment on column log_chunk.restart is 'Its restart count.';
comment on column log_chunk.lines is 'Lines in it.';
comment on column log_chunk.first_at is 'Timestamp of its first line.';
comment on column log_chunk.last_at is 'Timestamp of its last line.';
comment on column log_chunk.data is 'Each line as an RFC 3339 timestamp, a space, the bytes that were printed, a newline. Bytes, not text: NUL and invalid UTF-8 are kept.';
create table log_chunk_default partition of log_chunk default;
comment on table log_chunk_default is 'Takes rows whose day has no partition. Alert when it is not empty.';

create table log_kept (
    function_name text primary key references function (name),
    process_id uuid not null,
    data bytea not null,
    kept_at timestamptz not null default now()
);
comment on table log_kept is 'The end of each function''s newest run, kept when its partition was dropped.';
comment on column log_kept.function_name is 'The function.';
comment on column log_kept.process_id is 'The run it is of.';
comment on column log_kept.data is 'Its last chunk, in the form of log_chunk.data.';
comment on column log_kept.kept_at is 'When it was copied here.';

-- Partitions for today and the coming days; those older than the retention are dropped, the end of each newest run kept.
create function maintain_partitions(keep_days integer) returns void
language plpgsql
security definer
set search_path = public, pg_temp
as $$
declare
    today date := (now() at time zone 'utc')::date;
    parent text;
    wanted date;
    partition record;
begin
    if keep_days < 1 then
        raise exception 'keep_days must be at least 1, not %', keep_days using errcode = 'OC422';
    end if;
    -- Managers of all clusters call this; one at a time is enough.
    if not pg_try_advisory_xact_lock(hashtext('maintain_partitions')) then
        return;
    end if;
    foreach parent in array array['process_event', 'log_chunk'] loop
        for wanted in select generate_series(today, today + 7, '1 day')::date loop
            if to_regclass(format('%I', parent || to_char(wanted, '_YYYYMMDD'))) is null then
                -- Rows that fell into the default partition would make this fail; they stay there, the day is skipped.
                begin
                    execute format('create table %I partition of %I for values from (%L) to (%L)',
                                   parent || to_char(wanted, '_YYYYMMDD'), parent, wanted, wanted + 1);
                exception when check_violation or duplicate_table then
                    null;
                end;
            end if;
        end loop;
        for partition in
            select c.relname, to_date(right(c.relname, 8), 'YYYYMMDD') as day
              from pg_inherits i join pg_class c on c.oid = i.inhrelid
             where i.inhparent = to_regclass(parent) and c.relname ~ '_[0-9]{8}$'
        loop
            if partition.day < today - keep_days then
                if parent = 'log_chunk' then
                    execute format($copy$
                        insert into log_kept (function_name, process_id, data)
                        select distinct on (p.function_name) p.function_name, p.id, c.data
                          from %I c join process p on p.id = c.process_id
                         order by p.function_name, p.created_at desc, p.id desc, c.seq desc
                        on conflict (function_name) do update
                           set process_id = excluded.process_id, data = excluded.data, kept_at = now()
                        $copy$, partition.relname);
                end if;
                execute format('drop table %I', partition.relname);
            end if;
        end loop;
    end loop;
end
$$;
comment on function maintain_partitions is 'Makes the partitions of the coming days and drops those older than keep_days. Owned by the owner, called by managers.';
select maintain_partitions(14);

grant select on log_stream, log_chunk, log_kept to octopus_api, octopus_manager;
grant insert, update on log_stream to octopus_manager;
grant insert on log_chunk to octopus_manager;
grant execute on function maintain_partitions to octopus_manager;

reset role;
