-- A running hash of each log, so that anybody can check that what is read is what was stored.
set local role octopus_owner;

alter table log_stream add column chain bytea;
comment on column log_stream.chain is 'Of all stored lines: SHA-256 of the value before the line, the line, and a newline; empty before the first one. Null: lines were stored before there was this column.';

reset role;
