-- A command is answered by the statement that stores it, so what the queue makes of a command is asked for by name.
set local role octopus_owner;

create function command_key(one command) returns text
language sql stable
return case one.kind
           when 'declare_function' then 'revision:' || one.revision_id
           when 'kill_process' then 'kill:' || one.process_id
           when 'delete_function' then 'function:' || one.function_name
           else 'process:' || one.process_id
       end;
comment on function command_key is 'What a command is about: commands of one key are carried out one at a time, in their order.';

create function awaited_revision(one command) returns uuid
language sql stable
return (select r.id from revision r
         where one.kind in ('start_process', 'update_process') and r.id = one.revision_id and r.build_state <> 'ready');
comment on function awaited_revision is 'The revision whose image has to be built before a command can be carried out. Null: none.';

create or replace function make_ready(ready command) returns void
language plpgsql
set search_path = public, pg_temp
as $$
begin
    insert into command_ready (seq, cluster, kind, version, key, priority, deadline, waits_for)
    values (ready.seq, ready.cluster, ready.kind, ready.version, command_key(ready),
            command_priority(ready.kind), ready.created_at + make_interval(secs => ready.deadline_seconds),
            awaited_revision(ready));
end
$$;

grant execute on function command_key, awaited_revision to octopus_api;

reset role;
