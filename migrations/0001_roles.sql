-- Three group roles without login. Logins are made by whoever deploys (docker-compose.yml) and put into a group.
--   octopus_owner    owns every table and every SECURITY DEFINER function of this schema
--   octopus_api      inserts commands and bundles, reads
--   octopus_manager  claims commands, writes back what it sees
-- Roles belong to the whole Postgres server, so two databases that migrate at once meet here: an advisory lock would not
-- help (it is per database), hence "create, and accept that another one was faster".
do $$
declare
    wanted text;
begin
    foreach wanted in array array['octopus_owner', 'octopus_api', 'octopus_manager'] loop
        if not exists (select from pg_roles where rolname = wanted) then
            begin
                execute format('create role %I nologin', wanted);
            exception when duplicate_object or unique_violation then
                null;
            end;
        end if;
    end loop;
    if not pg_has_role(current_user, 'octopus_owner', 'member') then
        execute format('grant octopus_owner to %I', current_user);
    end if;
    execute format('revoke all on database %I from public', current_database());
    execute format('grant connect on database %I to octopus_owner, octopus_api, octopus_manager', current_database());
end
$$;

revoke all on schema public from public;
grant usage, create on schema public to octopus_owner;
grant usage on schema public to octopus_api, octopus_manager;

set local role octopus_owner;

-- Nothing is callable or readable unless a migration says so.
alter default privileges revoke execute on functions from public;

create table installation (
    singleton boolean primary key default true check (singleton),
    id uuid not null default gen_random_uuid(),
    created_at timestamptz not null default now()
);
comment on table installation is 'One row: which installation this database is. Every object in a cluster carries its id.';
comment on column installation.singleton is 'Always true: the primary key that allows one row only.';
comment on column installation.id is 'Made once, by this migration. Label octopus-process-manager/installation of every object.';
comment on column installation.created_at is 'When the database was set up. Objects older than it are never removed by a reconciler.';
insert into installation default values;

create table api_token (
    id uuid primary key default gen_random_uuid(),
    name text not null check (name ~ '^[a-zA-Z0-9][a-zA-Z0-9_.@-]{0,62}$'),
    sha256 bytea not null unique check (octet_length(sha256) = 32),
    role text not null check (role in ('viewer', 'operator', 'admin')),
    created_at timestamptz not null default now(),
    expires_at timestamptz,
    revoked_at timestamptz
);
comment on table api_token is 'Bearer tokens of the API, made with the owner''s credentials and never by the running server.';
comment on column api_token.id is 'Names the token when it is listed or revoked.';
comment on column api_token.name is 'Who uses it. Shown as requested_by of commands.';
comment on column api_token.sha256 is 'SHA-256 of the token, which is 32 random bytes: too many to guess, so no salt and no slow hash is needed.';
comment on column api_token.role is 'viewer reads; operator also starts and kills processes; admin also declares and deletes functions.';
comment on column api_token.created_at is 'When it was made.';
comment on column api_token.expires_at is 'From when on it is refused. Null: never.';
comment on column api_token.revoked_at is 'From when on it is refused, set by octopus-api token revoke.';
create unique index api_token_live_name on api_token (name) where revoked_at is null;

grant select on installation, api_token to octopus_api;
grant select on installation to octopus_manager;

reset role;
