//! What a manager would do to functions and processes, for tests of the API alone.

use std::time::Duration;

use chrono::Utc;
use octopus_shared::command::CommandKind;
use octopus_shared::db::claim::{self, Claim, Outcome};
use octopus_shared::db::report::{self, BuiltImage, Creation, Watch};
use octopus_shared::pod::{PodObservation, Verdict};
use octopus_shared::shard;
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use crate::api::Api;
use crate::postgres::Database;

/// A living manager of the cluster `default`.
pub async fn manager(database: &Database) -> Uuid {
    let instance = Uuid::new_v4();
    claim::register(&database.manager, instance, "default", "test", Duration::from_secs(60))
        .await
        .expect("registered");
    instance
}

/// The right of a manager to all shards of its cluster that are free.
pub async fn watch(database: &Database, instance: Uuid) -> Watch {
    let all: Vec<i16> = (0..shard::COUNT).collect();
    claim::divide(&database.manager, instance, "default", &all)
        .await
        .expect("divided")
        .expect("some shards were free")
}

/// A pod of a process as it is seen.
pub fn pod(process_id: Uuid, uid: &str, wish: &str, verdict: Verdict) -> PodObservation {
    PodObservation {
        uid: uid.into(),
        process_id,
        attempt: 1,
        wish: Some(wish.into()),
        shard: shard::of(process_id),
        name: uid.into(),
        node: None,
        phase: "Running".into(),
        verdict,
        restart_count: 0,
        containers: Vec::new(),
        events: Vec::new(),
        resource_version: "1".into(),
        created_at: Utc::now(),
        ended: false,
        gone: false,
    }
}

/// Stores one look at a pod of ours.
pub async fn observed(pool: &PgPool, watch: &Watch, pod: &PodObservation) {
    let ours = report::observe_pods(pool, watch, std::slice::from_ref(pod))
        .await
        .expect("stored");
    assert!(ours.contains(&pod.process_id), "it is ours");
}

/// Declares a function.
pub async fn declare(api: &Api, name: &str) -> Value {
    api.put(
        &format!("/api/v1/functions/{name}"),
        &json!({"source": "print('hello')"}),
    )
    .await
    .accepted()
}

/// Starts a task.
pub async fn start(api: &Api, name: &str) -> Value {
    api.post(&format!("/api/v1/functions/{name}/processes"), &json!({"kind": "task"}))
        .await
        .accepted()
}

/// Declares a function and starts a task: the id of its process.
pub async fn process(api: &Api) -> Uuid {
    declare(api, "hello").await;
    start(api, "hello").await["process_id"]
        .as_str()
        .and_then(|id| id.parse().ok())
        .expect("an id")
}

/// Claims the next command of a kind.
pub async fn claim(database: &Database, manager: Uuid, kind: CommandKind) -> Claim {
    claim::claim(&database.manager, manager, "default", &[kind], 1)
        .await
        .expect("claimed")
        .pop()
        .expect("a command")
}

/// Ends the build of a claimed revision with an image.
pub async fn build(database: &Database, claim: &Claim) {
    let image = BuiltImage {
        input_hash: "0".repeat(64),
        repository: "octopus/hello".into(),
        digest: format!("sha256:{}", "1".repeat(64)),
        base_digest: format!("sha256:{}", "2".repeat(64)),
        size_bytes: 1,
    };
    let revision = claim.revision_id.expect("a revision");
    report::build_succeeded(
        &database.manager,
        claim,
        revision,
        &image,
        (
            Some(&json!({"functions": []})),
            &octopus_shared::function::Entry::default(),
        ),
        "built",
    )
    .await
    .expect("stored");
    finish(&database.manager, claim, &Outcome::Succeeded)
        .await
        .expect("finished");
}

/// Ends one command. False: its claim was not the manager's any more.
///
/// # Errors
/// When Postgres is away.
pub async fn finish(pool: &PgPool, claim: &Claim, outcome: &Outcome) -> Result<bool, sqlx::Error> {
    let ended = claim::finish(pool, &[(claim.seq, claim.token, outcome)]).await?;
    Ok(ended == [claim.seq])
}

/// Records that the objects of a process exist.
pub async fn created(pool: &PgPool, claim: &Claim, process: Uuid, manifest: Value) {
    let made = Creation {
        seq: claim.seq,
        token: claim.token,
        process,
        manifest,
        endpoint: None,
    };
    let written = report::created(pool, &[made]).await.expect("stored");
    assert_eq!(written, [claim.seq], "the claim is ours");
}

/// A service of the function `hello`, created but not yet seen.
pub async fn service(database: &Database, api: &Api, manager: Uuid) -> Uuid {
    declare(api, "hello").await;
    build(database, &claim(database, manager, CommandKind::DeclareFunction).await).await;
    let started = api
        .post("/api/v1/functions/hello/processes", &json!({"kind": "service"}))
        .await
        .accepted();
    let process = started["process_id"]
        .as_str()
        .and_then(|id| id.parse().ok())
        .expect("an id");
    let claimed = claim(database, manager, CommandKind::StartProcess).await;
    let manifest = json!([{"kind": "Service"}, {"kind": "Deployment", "spec": {"replicas": 1}}]);
    created(&database.manager, &claimed, process, manifest).await;
    finish(&database.manager, &claimed, &Outcome::Succeeded)
        .await
        .expect("finished");
    process
}

/// Services of a function and a cluster of their own, which run as far as the rows say: for tests of the queue alone.
pub async fn services(database: &Database, cluster: &str, number: usize) -> Vec<Uuid> {
    let processes: Vec<Uuid> = (0..number).map(|_| Uuid::now_v7()).collect();
    sqlx::query(
        "with source as (
             insert into bundle (sha256, format, content) values (sha256($1::text::bytea), 'python_file', $1::text::bytea) returning sha256
         ), declared as (
             insert into function (name, cluster, last_revision) values ($1, $1, 1) returning name
         ), built as (
             insert into revision (id, function_name, number, spec, bundle, build_state)
             select gen_random_uuid(), name, 1, '{}', sha256, 'ready' from source, declared returning id
         )
         insert into process (id, function_name, revision_id, cluster, kind, name, spec, requested_by, lifecycle, state)
         select process, $1, built.id, $1, 'service', $1 || '-' || right(process::text, 12), '{\"kind\": \"service\"}', 'test', 'created', 'ready'
           from built, unnest($2::uuid[]) process",
    )
    .bind(cluster)
    .bind(&processes)
    .execute(&database.owner)
    .await
    .expect("stored");
    processes
}
