-- What users declare: functions, their immutable revisions, the sources and the images made from them.
set local role octopus_owner;

create table bundle (
    sha256 bytea primary key,
    format text not null check (format in ('python_file', 'tar', 'tar_gz', 'zip')),
    content bytea not null check (octet_length(content) <= 33554432),
    created_at timestamptz not null default now(),
    constraint bundle_is_content_addressed check (sha256 = sha256(content))
);
comment on table bundle is 'Source code of functions by its own hash. Inserted by the API before the command that names it.';
comment on column bundle.sha256 is 'SHA-256 of content; Postgres checks it.';
comment on column bundle.format is 'One octopus-format Python file, or an archive of a directory.';
comment on column bundle.content is 'The bytes as they were sent, at most 32 MiB.';
comment on column bundle.created_at is 'When it was first sent.';
alter table bundle alter column content set storage external;

create table image (
    input_hash text primary key check (input_hash ~ '^[0-9a-f]{64}$'),
    repository text not null,
    digest text not null check (digest ~ '^sha256:[0-9a-f]{64}$'),
    base_digest text not null,
    size_bytes bigint not null,
    built_at timestamptz not null default now()
);
comment on table image is 'Images in the registry, by the hash of all that went into them: the same input is never built twice.';
comment on column image.input_hash is 'SHA-256 over source, base image, Python version and builder version.';
comment on column image.repository is 'Repository without a host: nodes may pull from another name than the manager pushes to.';
comment on column image.digest is 'Manifest digest. Pods are pinned to it.';
comment on column image.base_digest is 'Manifest digest of the base image.';
comment on column image.size_bytes is 'Compressed bytes of all layers.';
comment on column image.built_at is 'When it was pushed.';

create table image_layer (
    key text primary key,
    digest text not null check (digest ~ '^sha256:[0-9a-f]{64}$'),
    diff_id text not null check (diff_id ~ '^sha256:[0-9a-f]{64}$'),
    size_bytes bigint not null,
    created_at timestamptz not null default now()
);
comment on table image_layer is 'Dependency layers that were pushed before, so that a change of code alone reuses them.';
comment on column image_layer.key is 'SHA-256 over the hashed lock, base image, Python version and layer format.';
comment on column image_layer.digest is 'Digest of the compressed blob in the registry.';
comment on column image_layer.diff_id is 'Digest of the uncompressed tar: what the image configuration names.';
comment on column image_layer.size_bytes is 'Compressed bytes.';
comment on column image_layer.created_at is 'When it was first pushed.';

create table function (
    name text primary key check (name ~ '^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$'),
    cluster text not null,
    last_revision integer not null default 0,
    created_at timestamptz not null default now(),
    deleted_at timestamptz
);
comment on table function is 'A named piece of user code. Its settings and source are in its revisions.';
comment on column function.name is 'A DNS label of at most 40 characters: it begins the names of Kubernetes objects.';
comment on column function.cluster is 'The cluster whose managers build and run it.';
comment on column function.last_revision is 'Number of the newest revision.';
comment on column function.created_at is 'When it was first declared.';
comment on column function.deleted_at is 'When its deletion was asked for. Declaring it again clears this.';

create table revision (
    id uuid primary key,
    function_name text not null references function (name),
    number integer not null check (number > 0),
    spec jsonb not null,
    bundle bytea not null references bundle (sha256),
    build_state text not null default 'pending' check (build_state in ('pending', 'building', 'ready', 'failed')),
    build_reason text,
    build_message text,
    build_remedy text,
    build_log text check (octet_length(build_log) <= 262144),
    config jsonb,
    image text references image (input_hash),
    created_at timestamptz not null default now(),
    built_at timestamptz,
    unique (function_name, number)
);
comment on table revision is 'One immutable version of a function and the image built from it.';
comment on column revision.id is 'UUID v7 given by the API; a name, not an order.';
comment on column revision.function_name is 'The function.';
comment on column revision.number is 'Counts from 1 within the function.';
comment on column revision.spec is 'FunctionSpec as JSON (shared/src/function.rs).';
comment on column revision.bundle is 'The source.';
comment on column revision.build_state is 'pending, building, then ready or failed for ever.';
comment on column revision.build_reason is 'Stable id of why the build failed.';
comment on column revision.build_message is 'The same for people, with the line of the source where there is one.';
comment on column revision.build_remedy is 'What to do about it.';
comment on column revision.build_log is 'Steps of the build and what the resolver printed, at most 256 KiB, the end kept.';
comment on column revision.config is 'The function''s own config_str, parsed: device_map, functions and so on.';
comment on column revision.image is 'Set when ready.';
comment on column revision.created_at is 'When it was declared.';
comment on column revision.built_at is 'When the build ended.';

grant select on bundle, image, image_layer, function, revision to octopus_api, octopus_manager;
grant insert (sha256, format, content) on bundle to octopus_api;
grant insert on image, image_layer to octopus_manager;
grant update (build_state, build_reason, build_message, build_remedy, build_log, config, image, built_at) on revision
    to octopus_manager;

reset role;
