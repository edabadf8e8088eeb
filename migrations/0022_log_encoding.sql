-- Logs take less room: chunks are packed, and small ones become one in the background.
set local role octopus_owner;

alter table log_chunk
    add column encoding smallint not null default 0,
    add column size integer,
    add column parts integer[];
comment on column log_chunk.encoding is 'Form of data. 0: each line as an RFC 3339 timestamp, a space, the bytes, a newline. 1: lines with short times. 2: the same as a block of lz4.';
comment on column log_chunk.size is 'Bytes that were printed, with a newline for each line. Null: the chunk was written before there was this column.';
comment on column log_chunk.parts is 'Lines of each chunk that was merged into this one; seq is that of the last, the others have the numbers before it. Cursors into them stay good. Null: it is as it was written.';
comment on column log_chunk.data is 'The lines, in the form that encoding says. Bytes, not text: NUL and invalid UTF-8 are kept.';
-- It is packed already.
alter table log_chunk alter column data set storage external;

alter table log_kept add column encoding smallint not null default 0;
comment on column log_kept.encoding is 'Form of data, as in log_chunk.';

alter table log_stream add column merged boolean not null default false;
comment on column log_stream.merged is 'It is sealed, and its small chunks are merged.';
create index log_stream_unmerged on log_stream (process_id) where not merged;

create or replace function partition_storage(parent text) returns text
language sql immutable
return case parent
    when 'command' then 'with (fillfactor = 50)'
    -- Merging leaves room that is soon written again.
    when 'log_chunk' then 'with (autovacuum_vacuum_scale_factor = 0.05, toast.autovacuum_vacuum_scale_factor = 0.05)'
    else ''
end;

create or replace function keep_log_ends(partition text) returns void
language plpgsql
set search_path = public, pg_temp
as $$
begin
    execute format($copy$
        insert into log_kept (function_name, process_id, data, encoding)
        select distinct on (p.function_name) p.function_name, p.id, c.data, c.encoding
          from %I c join process p on p.id = c.process_id
         order by p.function_name, p.created_at desc, p.id desc, c.seq desc
        on conflict (function_name) do update
           set process_id = excluded.process_id, data = excluded.data, encoding = excluded.encoding, kept_at = now()
        $copy$, partition);
end
$$;

do $$
declare
    name text;
begin
    for name in select inhrelid::regclass::text from pg_inherits where inhparent = 'log_chunk'::regclass loop
        execute format('alter table %s set (autovacuum_vacuum_scale_factor = 0.05, toast.autovacuum_vacuum_scale_factor = 0.05)',
                       name);
    end loop;
end
$$;

-- A merge takes the small ones away.
grant delete on log_chunk to octopus_manager;

reset role;
