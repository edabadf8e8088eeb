-- Writes of managers in batches: one commit for many processes. Whoever locks several processes does so in the order of their
-- ids, so that no two wait for each other.
set local role octopus_owner;

create function report_created(seqs bigint[], tokens bigint[], processes uuid[], manifests jsonb[], endpoints text[])
returns setof bigint
language plpgsql
set search_path = public, pg_temp
as $$
declare
    made record;
begin
    for made in
        select c.* from unnest(seqs, tokens, processes, manifests, endpoints) as c (seq, token, process, manifest, endpoint)
         order by c.process
    loop
        -- The claim is ours, and stays ours to the end of the transaction.
        perform from command_lease l where l.seq = made.seq and l.token = made.token for update;
        continue when not found;
        update process set manifest = made.manifest, endpoint = made.endpoint where id = made.process and lifecycle < 'gone';
        -- The watch may have seen the pod before its creation is reported: then it knows more.
        perform transition(p.id, 'created', 'starting') from process p where p.id = made.process and p.lifecycle = 'requested';
        return next made.seq;
    end loop;
end
$$;
comment on function report_created is 'Records that the objects of processes exist. Answers the claims that were still their manager''s; of the others nothing is written.';
grant execute on function report_created to octopus_manager;

create or replace function accept_delete_function(new command) returns command
language plpgsql
set search_path = public, pg_temp
as $$
declare
    target function;
begin
    update function set deleted_at = now() where name = new.function_name and deleted_at is null returning * into target;
    if not found then
        raise exception 'there is no function %', new.function_name using errcode = 'OC404', hint = 'GET /api/v1/functions lists them.';
    end if;
    insert into command (id, kind, process_id, payload, requested_by, trace_parent)
    select gen_random_uuid(), 'kill_process', p.id, '{}', new.requested_by, new.trace_parent
      from process p where p.function_name = target.name and p.lifecycle < 'gone' and p.desired = 'running'
     order by p.id;
    new.cluster := target.cluster;
    return new;
end
$$;

reset role;
