-- What Kubernetes warns about a pod is shown with it: a status often keeps to itself why nothing goes on.
set local role octopus_owner;

alter table pod add column events jsonb not null default '[]';
comment on column pod.events is 'Kubernetes'' warnings about it, the newest last and few: PodEvent as JSON (shared/src/pod.rs).';

reset role;
