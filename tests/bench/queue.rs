//! Claim and durable finish of commands that do nothing, beside pgbench with the very same statements, and beside the
//! narrowest claim and finish that there is. Needs the server's container: pgbench runs in it.

use std::process::Stdio;
use std::time::{Duration, Instant};

use octopus_shared::command::CommandKind;
use octopus_shared::db::claim::{self, Claim, Outcome};
use octopus_tests::postgres::Database;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions as _, PgPool};
use tokio::process::Command;
use uuid::Uuid;

use super::spread;

/// Commands of one measurement; with the pairs, 100,000 of ours in all.
const COMMANDS: i64 = 14_300;
const BATCH: i64 = 50;
/// Interleaved pairs.
const PAIRS: usize = 7;
const LEASE: Duration = Duration::from_secs(300);

/// Where the images of Postgres, upstream's and the stand-in, have it.
const PGBENCH: &str = "$(command -v pgbench || ls /usr/lib/postgresql/*/bin/pgbench | tail -n 1)";

/// Commands that wait, as the API's triggers leave them, without the processes that they would be about.
const FILL: &str = "
    set session_replication_role = replica;
    truncate command, command_ready, command_lease;
    insert into command (id, cluster, kind, requested_by)
    select gen_random_uuid(), 'default', 'kill_process', 'bench' from generate_series(1, $COUNT);
    insert into command_ready (seq, cluster, kind, version, key, priority)
    select seq, cluster, kind, version, 'kill:' || id, 0 from command;
    drop table if exists narrow_ready, narrow_lease;
    create table narrow_ready (seq bigint primary key);
    create table narrow_lease (seq bigint primary key);
    insert into narrow_ready select generate_series(1, $COUNT);
    vacuum analyze command; vacuum analyze command_ready; vacuum analyze command_lease; vacuum analyze narrow_ready;
";

const NARROW: &str = "
with c as materialized (select seq from narrow_ready order by seq limit 50 for update skip locked),
     t as (delete from narrow_ready r using c where r.seq = c.seq returning r.seq)
insert into narrow_lease select seq from t;
delete from narrow_lease;
";

/// A manager's two connections that matter here, each with its statements prepared on it.
struct Manager {
    claims: PgPool,
    ends: PgPool,
    instance: Uuid,
}

async fn connection(url: &str) -> PgPool {
    PgPoolOptions::new()
        .max_connections(1)
        .after_connect(|connection, _| {
            Box::pin(async move {
                sqlx::raw_sql("set role octopus_manager")
                    .execute(connection)
                    .await
                    .map(|_| ())
            })
        })
        .connect(url)
        .await
        .expect("Postgres answers")
}

pub(super) async fn run() {
    let database = Database::new().await;
    let Some(container) = database.container.clone() else {
        println!(
            "queue: not measured, since pgbench runs in the container of a Postgres of our own: unset DATABASE_URL"
        );
        return;
    };
    let manager = Manager {
        claims: connection(&database.url).await,
        ends: connection(&database.url).await,
        instance: Uuid::new_v4(),
    };
    let options: PgConnectOptions = database.url.parse().expect("a URL");
    let mut inside = options.host("127.0.0.1").port(5432).to_url_lossy();
    // sqlx's own options, which libpq does not know.
    inside.set_query(None);
    let inside = inside.to_string();
    claim::register(&manager.claims, manager.instance, "default", "bench", LEASE)
        .await
        .expect("a lease");
    fill(&database.owner, BATCH).await;
    ours(&manager, BATCH).await;
    let script = same_statements(&manager).await;

    let (mut to_same, mut to_narrow) = (Vec::new(), Vec::new());
    for pair in 1..=PAIRS {
        claim::beat(&manager.claims, manager.instance, LEASE)
            .await
            .expect("the lease goes on");
        fill(&database.owner, COMMANDS).await;
        let ours = ours(&manager, COMMANDS).await;
        fill(&database.owner, COMMANDS).await;
        let same = pgbench(&container, &inside, &script).await;
        let narrow = pgbench(&container, &inside, NARROW).await;
        println!(
            "claim and finish per second, pair {pair}: ours {ours:.0}, the same by pgbench {same:.0}, narrowest {narrow:.0}"
        );
        to_same.push(ours / same);
        to_narrow.push(ours / narrow);
    }
    println!(
        "claim and finish of {COMMANDS} commands, batches of {BATCH}: ratio to the same statements by pgbench {}, to the \
         narrowest {} (medians of {PAIRS} pairs, least to most)",
        spread(to_same),
        spread(to_narrow)
    );
}

async fn fill(owner: &PgPool, count: i64) {
    // One connection, statement by statement: VACUUM is in no transaction.
    let mut connection = owner.acquire().await.expect("a connection");
    for statement in FILL.replace("$COUNT", &count.to_string()).split(';') {
        sqlx::raw_sql(AssertSqlSafe(statement.to_owned()))
            .execute(&mut *connection)
            .await
            .expect("the table is filled");
    }
    sqlx::raw_sql("reset session_replication_role")
        .execute(&mut *connection)
        .await
        .expect("the session goes on");
}

/// Commands per second, as a manager does it: while one batch is being stored as ended, the next one is claimed.
async fn ours(manager: &Manager, count: i64) -> f64 {
    let claim = async || {
        claim::claim(
            &manager.claims,
            manager.instance,
            "default",
            &[CommandKind::KillProcess],
            BATCH,
        )
        .await
        .expect("a claim")
    };
    let finish = async |claims: Vec<Claim>| {
        let ended: Vec<_> = claims
            .iter()
            .map(|claim| (claim.seq, claim.token, &Outcome::Succeeded))
            .collect();
        claim::finish(&manager.ends, &ended).await.expect("an end").len()
    };
    let started = Instant::now();
    let mut done = 0;
    let mut claimed = claim().await;
    while !claimed.is_empty() {
        let (ended, next) = tokio::join!(finish(claimed), claim());
        done += ended;
        claimed = next;
    }
    assert_eq!(i64::try_from(done), Ok(count), "each command ends once");
    per_second(count, started.elapsed())
}

/// What our connection has prepared, with its arguments put in. pgbench keeps one row from one statement to the next, so
/// the claim answers with arrays and not with rows; its work is the same.
async fn same_statements(manager: &Manager) -> String {
    let prepared = async |pool: &PgPool, part: &str| {
        sqlx::query_scalar::<_, String>("select statement from pg_prepared_statements where statement like $1")
            .bind(format!("%{part}%"))
            .fetch_one(pool)
            .await
            .expect("it was prepared")
    };
    let kinds = format!("array['{}']", CommandKind::KillProcess.as_str());
    let claim = put_in(
        prepared(&manager.claims, "nextval('fencing_token')").await,
        &[
            "'default'".into(),
            kinds,
            "1".into(),
            format!("'{}'::uuid", manager.instance),
            BATCH.to_string(),
        ],
    );
    let (work, answer) = claim.rsplit_once("select c.seq").expect("what it answers");
    let (_, from) = answer.rsplit_once("from leased").expect("from where");
    let (from, _) = from.rsplit_once("order by").expect("in order");
    let each = |value: &str| format!("array_fill({value}::text, array[{BATCH}])");
    let finish = put_in(
        prepared(&manager.ends, "unnest($1::bigint[]").await,
        &[
            ":seqs".into(),
            ":tokens".into(),
            each("'succeeded'"),
            each("null"),
            each("null"),
            each("null"),
        ],
    );
    format!(
        "{work} select array_agg(c.seq) as seqs, array_agg(l.token) as tokens, max(c.payload::text) as payload \
         from leased {from} \\gset\n{finish};\n"
    )
}

fn put_in(statement: String, arguments: &[String]) -> String {
    let without_comments: Vec<&str> = statement
        .lines()
        .filter(|line| !line.trim_start().starts_with("--"))
        .collect();
    arguments
        .iter()
        .enumerate()
        .rev()
        .fold(without_comments.join("\n"), |text, (index, argument)| {
            text.replace(&format!("${}", index + 1), argument)
        })
}

/// Commands per second of a script that claims and finishes one batch.
async fn pgbench(container: &str, inside: &str, script: &str) -> f64 {
    let batches = COMMANDS / BATCH;
    let run = format!(
        "cat > /tmp/script.sql && {PGBENCH} --no-vacuum --protocol=prepared --client=1 --transactions={batches} \
         --file=/tmp/script.sql '{inside}'"
    );
    let mut child = Command::new("docker")
        .args([
            "exec",
            "--interactive",
            "--env",
            "PGPASSWORD",
            container,
            "sh",
            "-c",
            &run,
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("docker is installed");
    if let Some(mut input) = child.stdin.take() {
        use tokio::io::AsyncWriteExt as _;
        input.write_all(script.as_bytes()).await.expect("docker reads");
    }
    let output = child.wait_with_output().await.expect("docker ends");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let batches_per_second = text
        .lines()
        .find_map(|line| {
            line.strip_prefix("tps = ")?
                .split_whitespace()
                .next()?
                .parse::<f64>()
                .ok()
        })
        .unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)));
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    (batches_per_second * BATCH as f64)
}

fn per_second(count: i64, took: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    (count as f64 / took.as_secs_f64())
}
