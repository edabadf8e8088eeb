-- A manager that returns with lines that nobody else has: they are stored into the hole that was left for them.
set local role octopus_owner;

alter table log_stream
    add column filled_lines bigint not null default 0,
    add column filled_bytes bigint not null default 0,
    add column reserved_seq bigint;
comment on column log_stream.filled_lines is 'Lines that were stored into holes, out of the spool of a manager that had returned. They do not count as lines.';
comment on column log_stream.filled_bytes is 'Bytes of these lines, without the timestamps, and of beginnings of lines whose end was stored before. They do not count as bytes.';
comment on column log_stream.reserved_seq is 'Chunks of the process up to this number may still come out of a spool, to the end of this stream: no others get these numbers.';
comment on column log_stream.lines is 'Lines stored as they were read, with those that were dropped since. Those that were filled in count apart: this is where the reader is.';
comment on column log_stream.bytes is 'Bytes stored as they were read, without the timestamps, with those that were dropped since, and without those that were filled in.';
comment on column log_stream.chain is 'Of all stored lines as they were read, without those that were filled in: SHA-256 of the value before the line, the line, and a newline; empty before the first one. Null: lines were stored before there was this column.';
comment on column log_stream.gaps is 'Known holes: {from, to, reason, cut, bytes, estimated_bytes, room}. Times in nanoseconds since 1970, null where unknown; cut: the line after it may lack its beginning; bytes: how many are missing, where that is known; estimated_bytes: how many would be, had printing gone on as before; room: where lines out of a spool go, and by what they are known: next and last, free numbers of chunks; after, the cursor before the hole as far as it is filled; until, the first lines after it, none at the end of the stream.';
comment on column log_chunk.seq is 'Order within the process, given by the one fenced writer. Before the chunk after a hole that may be filled many numbers are free.';

reset role;
