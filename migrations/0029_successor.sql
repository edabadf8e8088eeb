-- A manager that was killed and is started again on the same disk need not wait for the end of the lease that it had.
set local role octopus_owner;

alter table manager add column spool uuid;
comment on column manager.spool is 'Its spool. One process at a time can hold it, so whoever holds it next knows that this one is dead. Null: it has none.';

reset role;
