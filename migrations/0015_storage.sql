-- Rows of the queue are made and deleted. The one change that some get, of what they wait for, is of an indexed column and leaves
-- nothing for free space to serve: full pages hold the same rows in 7 of 10 pages.
set local role octopus_owner;

alter table command_ready reset (fillfactor);
alter table command_lease reset (fillfactor);

reset role;
