//! The queue in Postgres alone. Needs the server's container: pgbench runs in it.

pub(super) mod enqueue;
pub(super) mod history;
pub(super) mod idle;
mod pgbench;
pub(super) mod pickup;
pub(super) mod snapshot;

use std::time::{Duration, Instant};

use octopus_shared::command::CommandKind;
use octopus_shared::db::claim::{self, Claim, Looks, Outcome};
use octopus_tests::postgres::Database;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use uuid::Uuid;

use self::pgbench::Pgbench;
use super::spread;

/// Commands of one measurement; with the pairs, 100,000 of ours in all.
const COMMANDS: i64 = 14_300;
const BATCH: i64 = 50;
/// What libraries of queues that are measured without leases hold at once.
const LARGE_BATCH: i64 = 500;
/// Interleaved pairs.
const PAIRS: usize = 7;
const LEASE: Duration = Duration::from_secs(300);

/// Commands that wait, as the API and its triggers leave them, without the processes that they would be about. The ids rise.
const ADD: &str = "
with added as (
    insert into command (id, cluster, kind, requested_by)
    select (lpad(to_hex((extract(epoch from clock_timestamp()) * 1000)::bigint), 12, '0')
            || right(replace(gen_random_uuid()::text, '-', ''), 20))::uuid, 'default', 'kill_process', 'bench'
      from generate_series(1, $1::bigint)
    returning *
)
insert into command_ready (seq, cluster, kind, version, key, priority)
select seq, cluster, kind, version, 'kill:' || id, 0 from added";

/// The narrowest claim and finish that there is.
const NARROW: &str = "
with c as materialized (select seq from narrow_ready order by seq limit 50 for update skip locked),
     t as (delete from narrow_ready r using c where r.seq = c.seq returning r.seq)
insert into narrow_lease select seq from t;
delete from narrow_lease;
";

/// A database of its own, and a manager's two connections that matter here.
struct Queue {
    database: Database,
    claims: PgPool,
    ends: PgPool,
    instance: Uuid,
}

/// Whether the next batch is claimed while the last one's ends are stored, as a manager does, or after them.
#[derive(Clone, Copy)]
enum Order {
    Overlapping,
    OneAfterTheOther,
}

impl Queue {
    /// None, and says so: the server is not ours.
    async fn new(part: &str) -> Option<Self> {
        let database = Database::new().await;
        if database.container.is_none() {
            println!(
                "{part}: not measured, since it needs a Postgres of its own that flushes to disk: unset DATABASE_URL"
            );
            return None;
        }
        let queue = Self {
            claims: connection(&database.url).await,
            ends: connection(&database.url).await,
            instance: Uuid::new_v4(),
            database,
        };
        claim::register(&queue.claims, queue.instance, "default", "bench", LEASE)
            .await
            .expect("a lease");
        Some(queue)
    }

    /// Lets further commands wait.
    async fn add(&self, count: i64) {
        let mut connection = self.database.owner.acquire().await.expect("a connection");
        run(&mut connection, "set session_replication_role = replica").await;
        sqlx::query(ADD)
            .bind(count)
            .execute(&mut *connection)
            .await
            .expect("added");
        run(&mut connection, "reset session_replication_role").await;
    }

    /// Begins anew, with so many that wait.
    async fn fill(&self, count: i64) {
        let mut connection = self.database.owner.acquire().await.expect("a connection");
        run(&mut connection, "truncate command, command_ready, command_lease").await;
        self.add(count).await;
        // One by one: VACUUM is in no transaction.
        for table in ["command", "command_ready", "command_lease"] {
            run(&mut connection, &format!("vacuum analyze {table}")).await;
        }
    }

    async fn fill_narrow(&self, count: i64) {
        let mut connection = self.database.owner.acquire().await.expect("a connection");
        run(
            &mut connection,
            &format!(
                "drop table if exists narrow_ready, narrow_lease;
                 create table narrow_ready (seq bigint primary key); create table narrow_lease (seq bigint primary key);
                 insert into narrow_ready select generate_series(1, {count})"
            ),
        )
        .await;
        run(&mut connection, "vacuum analyze narrow_ready").await;
    }

    /// Commands that are claimed and durably ended in a second.
    async fn rate(&self, count: i64, order: Order) -> f64 {
        self.rate_of(count, order, BATCH).await
    }

    /// The same in batches of another size.
    async fn rate_of(&self, count: i64, order: Order, batch: i64) -> f64 {
        claim::beat(&self.claims, self.instance, LEASE)
            .await
            .expect("the lease goes on");
        let mut looks = Looks::default();
        let started = Instant::now();
        let mut done = 0;
        let mut claimed = self.claim(&mut looks, batch).await;
        while !claimed.is_empty() {
            let (ended, next) = match order {
                Order::Overlapping => tokio::join!(self.finish(claimed), self.claim(&mut looks, batch)),
                Order::OneAfterTheOther => (self.finish(claimed).await, self.claim(&mut looks, batch).await),
            };
            done += ended;
            claimed = next;
        }
        assert_eq!(i64::try_from(done), Ok(count), "each command ends once");
        #[expect(clippy::cast_precision_loss, reason = "a small number")]
        (count as f64 / started.elapsed().as_secs_f64())
    }

    async fn claim(&self, looks: &mut Looks, batch: i64) -> Vec<Claim> {
        looks
            .claim(
                &self.claims,
                self.instance,
                "default",
                &[CommandKind::KillProcess],
                batch,
            )
            .await
            .expect("a claim")
    }

    async fn finish(&self, claims: Vec<Claim>) -> usize {
        let ended: Vec<_> = claims
            .iter()
            .map(|claim| (claim.seq, claim.token, &Outcome::Succeeded))
            .collect();
        claim::finish(&self.ends, &ended).await.expect("an end").len()
    }

    /// One claim as SQL.
    fn claim_sql(&self) -> String {
        format!(
            "claim_commands('{}', 'default', array['kill_process'], 1::smallint, 0, {BATCH})",
            self.instance
        )
    }

    /// The statements of [`Queue::claim`] and [`Queue::finish`], for pgbench, which keeps one row from one statement to the
    /// next.
    fn statements(&self) -> String {
        let each = |value: &str| format!("array_fill({value}::text, array[{BATCH}])");
        format!(
            "select array_agg(seq) as seqs, array_agg(token) as tokens, max(payload::text) as payload from {} \\gset\n\
             select finish_commands(:seqs::bigint[], :tokens::bigint[], {}, {null}, {null}, {null});\n",
            self.claim_sql(),
            each("'succeeded'"),
            null = each("null"),
        )
    }
}

async fn run(connection: &mut sqlx::PgConnection, statement: &str) {
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement.to_owned()))
        .execute(connection)
        .await
        .expect("it is carried out");
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

/// Claim and durable finish of commands that do nothing, beside pgbench with the very same statements one after the other, as
/// pgbench does, and, as a manager does it, beside the narrowest claim and finish that there is.
pub(super) async fn run_rates() {
    let Some(queue) = Queue::new("queue").await else {
        return;
    };
    let pgbench = Pgbench::of(&queue.database);
    let (mut to_same, mut in_turn, mut to_narrow, mut large) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for pair in 0..=PAIRS {
        queue.fill(COMMANDS).await;
        let ours = queue.rate(COMMANDS, Order::Overlapping).await;
        queue.fill_narrow(COMMANDS).await;
        let narrow = pgbench.batches(NARROW).await;
        queue.fill(COMMANDS).await;
        let alone = queue.rate(COMMANDS, Order::OneAfterTheOther).await;
        queue.fill(COMMANDS).await;
        let same = pgbench.batches(&queue.statements()).await;
        queue.fill(COMMANDS).await;
        let in_large = queue.rate_of(COMMANDS, Order::Overlapping, LARGE_BATCH).await;
        if pair == 0 {
            // The first one warms everything up.
            continue;
        }
        println!(
            "claim and finish per second, pair {pair}: as a manager {ours:.0}, narrowest {narrow:.0}; one after the other \
             {alone:.0}, the same by pgbench {same:.0}; as a manager in batches of {LARGE_BATCH} {in_large:.0}"
        );
        to_same.push(ours / same);
        in_turn.push(alone / same);
        to_narrow.push(ours / narrow);
        large.push(in_large / narrow);
    }
    println!(
        "claim and finish of {COMMANDS} commands, batches of {BATCH}: ratio to the same statements by pgbench {}, one after \
         the other {}, as a manager to the narrowest {}, and in batches of {LARGE_BATCH} {} (medians of {PAIRS} pairs, least to most)",
        spread(to_same),
        spread(in_turn),
        spread(to_narrow),
        spread(large)
    );
}
