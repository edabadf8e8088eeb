-- A change of files at which lines may have been missed is on record even when its reader dies before it has looked.
set local role octopus_owner;

alter table log_stream add column head bigint;
comment on column log_stream.head is 'First timestamp of the newest file of the node before which nothing is missing that is not on record, nanoseconds since 1970. Null: not known.';

reset role;
