-- Holes in logs say more of themselves: how a rotation cut lines, and how many bytes are missing where that is known.
set local role octopus_owner;

comment on column log_stream.cursor_time is 'Timestamp of the last stored line, nanoseconds since 1970. Of a line that a rotation cut in two, that of its end: a later read shows only this.';
comment on column log_stream.first_at is 'The earliest timestamp.';
comment on column log_stream.last_at is 'The latest timestamp: not that of the last line when the node''s clock was set back.';
comment on column log_stream.gaps is 'Known holes: {from, to, reason, cut, bytes}. Times in nanoseconds since 1970, null where unknown; cut: the line after it may lack its beginning; bytes: how many are missing, where that is known.';
comment on column log_chunk.first_at is 'The earliest timestamp in it.';
comment on column log_chunk.last_at is 'The latest timestamp in it.';

reset role;
