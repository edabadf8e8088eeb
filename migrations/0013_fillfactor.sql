-- Each command's row is written twice: when it is stored, and when it ends. Half of each page stays free for the second time,
-- so that the end needs no new index entries: storing fifty ends took 0.35 ms instead of 0.64 (ARCHITECTURE.md, the queue).
set local role octopus_owner;

alter table command set (fillfactor = 50);

reset role;
