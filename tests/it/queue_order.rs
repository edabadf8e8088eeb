//! Four managers that claim in batches at once, some of which die: of each process one command at a time, and in order.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use octopus_shared::command::{CommandKind, Request};
use octopus_shared::db::claim::{self, Claim, Outcome};
use octopus_shared::db::enqueue::{Asker, enqueue};
use octopus_tests::function::{finish, services};
use octopus_tests::postgres::Database;
use rand::RngExt;
use uuid::Uuid;

const MANAGERS: usize = 4;
const PROCESSES: usize = 60;
const COMMANDS: usize = 10;

/// What is carried out of one process.
#[derive(Default)]
struct Line {
    /// What is still to come, in order.
    waiting: Vec<Uuid>,
    running: bool,
}

type Lines = Arc<Mutex<HashMap<Uuid, Line>>>;

fn begin(lines: &Lines, claim: &Claim) {
    let mut lines = lines.lock().unwrap();
    let line = lines.get_mut(&claim.process_id.unwrap()).unwrap();
    assert!(!line.running, "two commands of one process at once");
    assert_eq!(line.waiting.first(), Some(&claim.id), "not the oldest one");
    line.running = true;
}

fn end(lines: &Lines, claim: &Claim, done: bool) {
    let mut lines = lines.lock().unwrap();
    let line = lines.get_mut(&claim.process_id.unwrap()).unwrap();
    line.running = false;
    if done {
        line.waiting.remove(0);
    }
}

async fn register(database: &Database) -> Uuid {
    let instance = Uuid::new_v4();
    let lease = Duration::from_secs(600);
    claim::register(&database.manager, instance, "default", "test", lease)
        .await
        .unwrap();
    instance
}

/// Claims, carries out, and dies now and then; answers how often it died.
async fn work(database: Arc<Database>, lines: Lines) -> u32 {
    let mut instance = register(&database).await;
    let (mut deaths, mut batches) = (0, 0);
    let pool = &database.manager;
    while lines.lock().unwrap().values().any(|line| !line.waiting.is_empty()) {
        let kinds = [CommandKind::RestartProcess];
        let mut claims = claim::claim(pool, instance, "default", &kinds, 25).await.unwrap();
        if claims.is_empty() {
            claims.extend(claim::claim_suspect(pool, instance, "default").await.unwrap());
        }
        if claims.is_empty() {
            // Others hold what there is.
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        }
        batches += 1;
        claims.iter().for_each(|claim| begin(&lines, claim));
        // Seldom enough that nothing is rescued too often.
        let dies_at = (batches % 8 == 4).then(|| rand::rng().random_range(0..claims.len()));
        for (number, claim) in claims.iter().enumerate() {
            if Some(number) == dies_at {
                // SIGKILL with the rest in its hands. A sleeper would wake up with the tokens of all of them.
                claims[number..].iter().for_each(|claim| end(&lines, claim, false));
                sqlx::query("update manager set lease_until = now() - interval '1 second' where instance = $1")
                    .bind(instance)
                    .execute(&database.owner)
                    .await
                    .unwrap();
                claim::rescue(pool, "default").await.unwrap();
                for claim in &claims[number..] {
                    assert!(!finish(pool, claim, &Outcome::Succeeded).await.unwrap());
                    let given = claim::give_back(pool, claim, Duration::ZERO, true).await.unwrap();
                    assert!(!given, "a token of a rescued claim");
                }
                instance = register(&database).await;
                deaths += 1;
                break;
            }
            tokio::task::yield_now().await;
            let done = rand::rng().random_range(0..10) > 0;
            // Before the row: the next one of this process may be claimed as soon as it is free.
            end(&lines, claim, done);
            let written = if done {
                finish(pool, claim, &Outcome::Succeeded).await
            } else {
                claim::give_back(pool, claim, Duration::ZERO, false).await
            };
            assert!(written.unwrap(), "it was ours");
        }
    }
    deaths
}

#[tokio::test(flavor = "multi_thread")]
async fn four_managers_keep_the_order_of_each_process() {
    let database = Arc::new(Database::new().await);
    let mut lines: HashMap<Uuid, Line> = HashMap::new();
    let processes = services(&database, "default", PROCESSES).await;
    let asker = Asker {
        name: "test".into(),
        ..Asker::default()
    };
    for _ in 0..COMMANDS {
        for process in &processes {
            let request = Request::RestartProcess { process: *process };
            let accepted = enqueue(&database.api, &request, &asker).await.unwrap();
            lines.entry(*process).or_default().waiting.push(accepted.command.id);
        }
    }
    let lines = Arc::new(Mutex::new(lines));
    let managers = (0..MANAGERS).map(|_| tokio::spawn(work(database.clone(), lines.clone())));
    let deaths: u32 = futures::future::join_all(managers)
        .await
        .into_iter()
        .map(Result::unwrap)
        .sum();
    assert!(deaths > 0, "nobody died: this would have shown nothing");
    let (done, left): (i64, i64) = sqlx::query_as(
        "select count(*) filter (where state = 'succeeded'),
                (select count(*) from command_ready) + (select count(*) from command_lease) from command",
    )
    .fetch_one(&database.owner)
    .await
    .unwrap();
    assert_eq!((done, left), ((PROCESSES * COMMANDS) as i64, 0));
}
