-- While Postgres is away, managers keep on disk what they read. Whoever reads on must know who may have more.
set local role octopus_owner;

alter table log_stream add column spool uuid;
comment on column log_stream.spool is 'Spool of the manager that stored the last lines, or began to read: what it read and could not store may be there. Null: it has none.';

reset role;
