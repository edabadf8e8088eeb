//! Transitions of many processes at once are those that each would have made alone.

use octopus_tests::function::services;
use octopus_tests::postgres::Database;
use serde_json::Value;
use sqlx::PgPool;
use uuid::Uuid;

/// Lifecycle, state, reason, message, exit code.
type Move = (
    &'static str,
    &'static str,
    Option<&'static str>,
    Option<&'static str>,
    Option<i32>,
);

/// Before each process is looked at it makes these, from `created` and `ready`.
const PATHS: [&[Move]; 9] = [
    // Words that say more replace those that are shown, and no event tells of that.
    &[
        ("created", "failing", Some("crash_loop"), Some("one of two"), None),
        (
            "created",
            "failing",
            Some("crash_loop"),
            Some("one of two: no room"),
            None,
        ),
        ("created", "failing", Some("crash_loop"), Some("one of two"), None),
    ],
    &[(
        "created",
        "failing",
        Some("crash_loop"),
        Some("again and again"),
        Some(1),
    )],
    &[("created", "ready", None, None, None)],
    &[("requested", "pending", None, None, None)],
    &[
        ("stopping", "stopping", Some("kill_requested"), None, None),
        ("created", "ready", None, None, None),
        ("gone", "killed", None, None, Some(143)),
    ],
    &[
        ("gone", "failed", Some("exit_code"), Some("it exited with 3"), Some(3)),
        ("gone", "killed", None, None, None),
    ],
    &[
        ("created", "failing", Some("crash_loop"), None, Some(2)),
        ("created", "failing", Some("crash_loop"), Some("other words"), None),
        ("created", "ready", None, None, None),
    ],
    // What it ended with is not the exit code of what comes after it.
    &[
        ("created", "failing", Some("exit_code"), None, Some(3)),
        ("created", "failed", Some("evicted"), None, None),
        ("gone", "failed", Some("evicted"), None, None),
    ],
    &[],
];

async fn alone(pool: &PgPool, process: Uuid, (lifecycle, state, reason, message, code): Move) {
    sqlx::query("select transition($1, $2::process_lifecycle, $3, $4, $5, 'do this', $6, 'pod', '7')")
        .bind(process)
        .bind(lifecycle)
        .bind(state)
        .bind(reason)
        .bind(message)
        .bind(code)
        .execute(pool)
        .await
        .unwrap();
}

async fn together(pool: &PgPool, moves: &[(Uuid, Move)]) {
    let many = vec!["do this"; moves.len()];
    sqlx::query("select transitions($1, $2::text[]::process_lifecycle[], $3, $4, $5, $6, $7, $8, $9)")
        .bind(moves.iter().map(|(process, _)| *process).collect::<Vec<_>>())
        .bind(moves.iter().map(|(_, made)| made.0).collect::<Vec<_>>())
        .bind(moves.iter().map(|(_, made)| made.1).collect::<Vec<_>>())
        .bind(moves.iter().map(|(_, made)| made.2).collect::<Vec<_>>())
        .bind(moves.iter().map(|(_, made)| made.3).collect::<Vec<_>>())
        .bind(many)
        .bind(moves.iter().map(|(_, made)| made.4).collect::<Vec<_>>())
        .bind(vec!["pod"; moves.len()])
        .bind(vec!["7"; moves.len()])
        .execute(pool)
        .await
        .unwrap();
}

/// What is known of a process, but for its name and the times.
async fn known(pool: &PgPool, process: Uuid) -> Value {
    sqlx::query_scalar(
        "select jsonb_build_object(
                'process', (select jsonb_build_array(lifecycle, state, reason, message, remedy, exit_code, last_event,
                                                     gone_at is null) from process where id = $1),
                'events', (select jsonb_agg(to_jsonb(e) - 'process_id' - 'at' - 'transaction' order by number)
                             from process_event e where process_id = $1))",
    )
    .bind(process)
    .fetch_one(pool)
    .await
    .unwrap()
}

#[tokio::test]
async fn many_transitions_are_those_that_each_would_be() {
    let database = Database::new().await;
    let pool = &database.manager;
    let each = services(&database, "each", PATHS.len()).await;
    let all = services(&database, "each-2", PATHS.len()).await;
    sqlx::query("update process set cluster = 'each'")
        .execute(&database.owner)
        .await
        .unwrap();
    for (process, path) in each.iter().zip(PATHS) {
        for made in path {
            alone(pool, *process, *made).await;
        }
    }
    for step in 0..3 {
        let moves = all
            .iter()
            .zip(PATHS)
            .filter_map(|(process, path)| Some((*process, *path.get(step)?)));
        together(pool, &moves.collect::<Vec<_>>()).await;
    }
    together(pool, &[]).await;
    for (number, (alone, together)) in each.iter().zip(&all).enumerate() {
        let (alone, together) = (known(pool, *alone).await, known(pool, *together).await);
        assert_eq!(alone, together, "path {number}");
    }
    let shown: String = sqlx::query_scalar("select message from process where id = $1")
        .bind(all[0])
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!(shown, "one of two: no room");
    let events: i64 = sqlx::query_scalar("select count(*) from process_event")
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!(events, 2 * 10, "not every move leads on");
    let code = async |path: usize| -> Option<i32> {
        sqlx::query_scalar("select exit_code from process where id = $1")
            .bind(all[path])
            .fetch_one(pool)
            .await
            .unwrap()
    };
    assert_eq!((code(5).await, code(6).await, code(7).await), (Some(3), None, None));
}
