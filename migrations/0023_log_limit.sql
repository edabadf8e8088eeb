-- The log of a process may be longer than it is kept: the oldest lines are dropped, and counted.
set local role octopus_owner;

alter table log_stream
    add column truncated_lines bigint not null default 0,
    add column truncated_bytes bigint not null default 0,
    add column truncated_at timestamptz,
    add column truncated_seq bigint,
    add column truncated_line integer;
comment on column log_stream.truncated_lines is 'Lines at its beginning that were stored and dropped since, because the log of the process was longer than OCTOPUS_LOG_BYTES_PER_PROCESS.';
comment on column log_stream.truncated_bytes is 'Bytes of these lines, without the timestamps.';
comment on column log_stream.truncated_at is 'The latest timestamp of these lines.';
comment on column log_stream.truncated_seq is 'Number of the last chunk of them: with truncated_line, the place in the log of the process after the last of them.';
comment on column log_stream.truncated_line is 'Lines of the last part of that chunk.';
comment on column log_stream.lines is 'Lines stored, with those that were dropped since.';
comment on column log_stream.bytes is 'Bytes stored, without the timestamps, with those that were dropped since.';
comment on column log_stream.seal is 'Null while open; complete: every byte is stored; gap: some are known to be missing; truncated: the oldest lines were dropped to keep within a limit.';
comment on column log_stream.gaps is 'Known holes: {from, to, reason, cut, bytes, estimated_bytes}. Times in nanoseconds since 1970, null where unknown; cut: the line after it may lack its beginning; bytes: how many are missing, where that is known; estimated_bytes: how many would be, had printing gone on as before.';

reset role;
