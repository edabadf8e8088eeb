//! Parts that are away for a while, with callers who go on asking: Postgres, the API server, the registry.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use octopus_tests::stack::client::{Client, until};
use octopus_tests::stack::containers::on_node;
use octopus_tests::stack::link::{Line, Link};
use octopus_tests::stack::programs::Program;
use octopus_tests::stack::{Links, Stack};
use reqwest::Method;
use serde_json::json;
use sqlx::{Connection, PgConnection};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::changes::settled;
use crate::functions::{PLAIN, WORK, small, task};
use crate::managers::runs;

/// Whether there is time for the long form.
pub(crate) fn soak() -> bool {
    std::env::var_os("OCTOPUS_SOAK").is_some()
}

/// What was asked for meanwhile.
#[derive(Default)]
struct Asked {
    tasks: Vec<Uuid>,
    killed: Vec<Uuid>,
}

/// Asks, again and again until `over`, for a task and for a process that it ends at once.
async fn ask(client: &Client, over: &CancellationToken) -> Asked {
    let start = async |arguments: &[&str]| -> Uuid {
        let path = "/api/v1/functions/work/processes";
        let command = client.insist(Method::POST, path, &task(arguments)).await;
        command["process"]["id"].as_str().unwrap().parse().unwrap()
    };
    let mut asked = Asked::default();
    while !over.is_cancelled() {
        asked.tasks.push(start(&["say", "ran"]).await);
        let process = start(&["sleep", "600"]).await;
        let path = format!("/api/v1/processes/{process}/kill");
        client.insist(Method::POST, &path, &json!({})).await;
        asked.killed.push(process);
        // The pace of the callers, which a small node has to follow.
        tokio::select! { () = over.cancelled() => {}, () = sleep(Duration::from_millis(1500)) => {} }
    }
    asked
}

/// A service that runs all the time, and its pods.
struct Witness {
    process: Uuid,
    pods: Vec<Option<String>>,
}

impl Witness {
    async fn start(stack: &Stack) -> Self {
        let process = stack.client.start("plain", json!({"kind": "service"})).await;
        settled(stack, process, 1).await;
        Self {
            process,
            pods: Self::look(stack, process).await,
        }
    }

    async fn look(stack: &Stack, process: Uuid) -> Vec<Option<String>> {
        let selector = format!("octopus-process-manager/process={process}");
        let pods = stack.namespace.api::<Pod>();
        let pods = pods.list(&ListParams::default().labels(&selector)).await.unwrap();
        pods.items.into_iter().map(|pod| pod.metadata.uid).collect()
    }
}

/// Everything was done, once; nothing is taken for failed; and the service was left alone.
async fn all_done(stack: &Stack, asked: &Asked, witness: &Witness) {
    for process in &asked.tasks {
        let gone = stack.client.shows(*process, "lifecycle", "gone", 180).await;
        assert_eq!(gone["state"], "succeeded", "{gone}");
        assert_eq!(runs(stack, *process).await, (1, 1), "{gone}");
    }
    for process in &asked.killed {
        let gone = stack.client.shows(*process, "lifecycle", "gone", 180).await;
        assert_eq!(gone["state"], "killed", "{gone}");
    }
    assert_eq!(Witness::look(stack, witness.process).await, witness.pods);
    let shown = stack.client.process(witness.process).await;
    assert_eq!(
        (&shown["state"], &shown["reason"]),
        (&json!("ready"), &json!("set_up_performed")),
        "{shown}"
    );
    let wrong: Vec<String> = sqlx::query_scalar(
        "select kind || ' ' || state || ' ' || coalesce(reason, '') from command where state in ('waiting', 'failed')
         union all
         select 'event ' || state || ' ' || coalesce(reason, '') from process_event where state in ('failed', 'unconfirmed')
         union all
         select 'service ' || state || ' ' || coalesce(reason, '') from process_event
          where process_id = $1 and state <> 'ready' and number > (select min(number) from process_event where process_id = $1 and state = 'ready')",
    )
    .bind(witness.process)
    .fetch_all(&stack.owner)
    .await
    .unwrap();
    assert!(wrong.is_empty(), "{wrong:?}");
    until("no other pod to be left", 60, async || {
        (stack.namespace.pods().await.len() == witness.pods.len()).then_some(())
    })
    .await;
    let (clean, shown) = stack.diff(&[]).await;
    assert!(clean, "{shown}");
}

async fn is_ready(manager: &Program) {
    until("the manager to be ready", 60, async || {
        manager.readiness().await.filter(|(ready, _)| *ready)
    })
    .await;
}

async fn says(manager: &Program, word: &str) {
    until(&format!("readiness to say `{word}`"), 30, async || {
        let (ready, text) = manager.readiness().await?;
        (!ready && text.contains(word)).then_some(())
    })
    .await;
}

/// A new connection: those of the pool may be dead as well.
async fn connected(stack: &Stack) -> PgConnection {
    let options = stack.owner.connect_options();
    until("Postgres to answer", 30, async || {
        let connected = timeout(Duration::from_secs(2), PgConnection::connect_with(&options)).await;
        connected.ok()?.ok()
    })
    .await
}

/// Seconds until the manager is ready, and has begun every start and every kill that waited by then.
async fn recovers(stack: &Stack, manager: &Program, what: &str) {
    let since = Instant::now();
    is_ready(manager).await;
    let ready = since.elapsed();
    let mut postgres = connected(stack).await;
    let newest: i64 = sqlx::query_scalar("select coalesce(max(seq), 0) from command")
        .fetch_one(&mut postgres)
        .await
        .unwrap();
    until("what waited to be begun", 60, async || {
        let waiting: i64 = sqlx::query_scalar(
            "select count(*) from command c where c.seq <= $1 and c.state = 'waiting'
                and not (c.kind = 'kill_process' and exists (select from command_lease l where l.seq = c.seq))",
        )
        .bind(newest)
        .fetch_one(&mut postgres)
        .await
        .unwrap();
        (waiting == 0).then_some(())
    })
    .await;
    let all = since.elapsed();
    println!(
        "{what}: ready {:.1} s after its return, all that waited begun after {:.1} s",
        ready.as_secs_f64(),
        all.as_secs_f64()
    );
    // Ten, and more for a machine that does other things too.
    assert!(all < Duration::from_secs(30), "{what}: {all:?}");
}

async fn prepared(name: &str) -> (Stack, Links, Program, Witness) {
    let (stack, links) = Stack::linked(name).await;
    let manager = stack.manager().await;
    stack.client.build("work", WORK, small()).await;
    stack.client.build("plain", PLAIN, small()).await;
    let witness = Witness::start(&stack).await;
    (stack, links, manager, witness)
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_dies_again_and_again_and_nothing_is_lost() {
    let (stack, links, manager, witness) = prepared("postgres-away").await;
    let over = CancellationToken::new();
    let faults = async {
        for _ in 0..if soak() { 20 } else { 1 } {
            // Into the middle of whatever is under way, which is the point: not a wait for something.
            sleep(Duration::from_millis(rand::random_range(1000..3000))).await;
            links.postgres.stop().await;
            says(&manager, "Postgres does not answer").await;
            links.postgres.start().await;
            recovers(&stack, &manager, "Postgres, killed").await;

            sleep(Duration::from_millis(rand::random_range(500..1500))).await;
            let end = "select pg_terminate_backend(pid) from pg_stat_activity where backend_type = 'client backend'";
            // Its own connection as well.
            let _ = sqlx::raw_sql(end).execute(&stack.owner).await;
            recovers(&stack, &manager, "Postgres, all connections ended").await;
        }
        // Nobody says that it is over.
        links.postgres.link.set(Line::Silent);
        says(&manager, "Postgres does not answer").await;
        links.postgres.link.set(Line::Open);
        recovers(&stack, &manager, "Postgres, silent").await;
        over.cancel();
    };
    let (asked, ()) = tokio::join!(ask(&stack.client, &over), faults);
    println!("{} tasks and {} kills meanwhile", asked.tasks.len(), asked.killed.len());
    all_done(&stack, &asked, &witness).await;
}

/// Lets the API server be away as `line` says.
async fn without_cluster(stack: &Stack, manager: &Program, link: &Link, line: Line) {
    let away = Duration::from_secs(if soak() { 30 } else { 10 });
    sleep(Duration::from_secs(2)).await;
    link.set(line);
    let since = Instant::now();
    says(manager, "API server does not answer").await;
    tokio::time::sleep_until(since + away).await;
    link.set(Line::Open);
    recovers(stack, manager, &format!("API server, {line:?} for {away:?}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_is_away_and_nothing_is_taken_for_failed() {
    let (stack, links, manager, witness) = prepared("cluster-away").await;
    let over = CancellationToken::new();
    let faults = async {
        without_cluster(&stack, &manager, &links.cluster, Line::Cut).await;
        // And without a word: those connections are found out by the limits of calls.
        without_cluster(&stack, &manager, &links.cluster, Line::Silent).await;
        over.cancel();
    };
    let (asked, ()) = tokio::join!(ask(&stack.client, &over), faults);
    println!("{} tasks and {} kills meanwhile", asked.tasks.len(), asked.killed.len());
    all_done(&stack, &asked, &witness).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_itself_dies_and_stands_still() {
    if std::env::var_os("OCTOPUS_STOP_API_SERVER").is_none() {
        eprintln!("every other test of this run would miss the API server: `make soak` stops it");
        return;
    }
    let (stack, _links, manager, witness) = prepared("cluster-stopped").await;
    let over = CancellationToken::new();
    let node = async |script: &str| {
        assert!(on_node(stack.shared, &["sh", "-c", script]).await.is_some(), "{script}");
    };
    let faults = async {
        for (stop, go_on) in [
            (
                "touch /run/stop/kube-apiserver && pkill -KILL -f ^kube-apiserver",
                "rm /run/stop/kube-apiserver",
            ),
            ("pkill -STOP -f ^kube-apiserver", "pkill -CONT -f ^kube-apiserver"),
        ] {
            node(stop).await;
            let since = Instant::now();
            says(&manager, "API server does not answer").await;
            tokio::time::sleep_until(since + Duration::from_secs(30)).await;
            node(go_on).await;
            // It needs a while for itself.
            until("the API server to answer", 120, async || {
                stack.namespace.admin.apiserver_version().await.ok()
            })
            .await;
            recovers(&stack, &manager, stop).await;
        }
        over.cancel();
    };
    let (asked, ()) = tokio::join!(ask(&stack.client, &over), faults);
    println!("{} tasks and {} kills meanwhile", asked.tasks.len(), asked.killed.len());
    all_done(&stack, &asked, &witness).await;
}

/// How often the manager has put a build off.
async fn put_off(manager: &Program) -> f64 {
    let series = r#"octopus_commands_total{kind="declare_function",ending="later"}"#;
    manager.metric(series).await.unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_away_fails_no_build() {
    let (stack, links) = Stack::linked("registry-away").await;
    let manager = stack.manager().await;
    is_ready(&manager).await;
    // A silent one is found out after half a minute.
    let lines = if soak() {
        &[Line::Cut, Line::Silent][..]
    } else {
        &[Line::Cut]
    };
    for line in lines {
        links.registry.set(*line);
        let source = format!("{WORK}\n# {line:?}\n");
        let before = put_off(&manager).await;
        let command = stack.client.declare("work", &source, small()).await;
        let task = stack.client.start("work", task(&["say", "ran"])).await;
        // One that is in a hurry, whose build has been tried when its time is over.
        let path = "/api/v1/functions/hurried?deadline_seconds=20";
        let body = json!({ "spec": small(), "source": source });
        let hurried = stack.client.insist(Method::PUT, path, &body).await;
        let waits = async |path: String| stack.client.get(&path).await["waiting_for"]["what"] == "registry";
        until("the wait to be shown", 120, async || {
            let shown =
                waits(format!("/api/v1/commands/{command}")).await && waits(format!("/api/v1/processes/{task}")).await;
            shown.then_some(())
        })
        .await;
        says(&manager, "the registry ").await;
        // A command that counted these as attempts would have failed by then.
        until("more tries than attempts are allowed", 300, async || {
            (put_off(&manager).await > before + 10.0).then_some(())
        })
        .await;
        let hurried: Uuid = hurried["id"].as_str().unwrap().parse().unwrap();
        let late = stack.client.ended(hurried, 60).await;
        assert_eq!(late["reason"], "command_deadline_exceeded", "{late}");

        links.registry.set(Line::Open);
        let since = Instant::now();
        let built = stack.client.ended(command, 60).await;
        assert_eq!(built["state"], "succeeded", "{built}");
        println!(
            "registry, {line:?}: built {:.1} s after its return",
            since.elapsed().as_secs_f64()
        );
        is_ready(&manager).await;
        let gone = stack.client.shows(task, "lifecycle", "gone", 60).await;
        assert_eq!(gone["state"], "succeeded", "{gone}");
    }
}
