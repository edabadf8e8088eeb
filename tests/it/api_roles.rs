//! What each role may do, every statement class on every table, compared with `role_matrix.txt` and tried.

use std::fmt::Write;

use octopus_tests::postgres::Database;
use sqlx::AssertSqlSafe;

const ROLES: [&str; 2] = ["octopus_api", "octopus_manager"];
const MATRIX: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/it/role_matrix.txt");

const CLASSES: [&str; 5] = ["select", "insert", "update", "delete", "truncate"];

/// What a role may do to a table with one class of statements.
#[derive(Debug, PartialEq, Eq)]
enum Right {
    No,
    Whole,
    Columns(Vec<String>),
}

async fn right(database: &Database, role: &str, table: &str, class: &str) -> Right {
    let whole: bool = sqlx::query_scalar("select has_table_privilege($1, $2, $3)")
        .bind(role)
        .bind(table)
        .bind(class)
        .fetch_one(&database.owner)
        .await
        .unwrap();
    if whole {
        return Right::Whole;
    }
    if ["delete", "truncate"].contains(&class) {
        return Right::No;
    }
    let columns: Vec<String> = sqlx::query_scalar(
        "select attname::text from pg_attribute where attrelid = $2::regclass and attnum > 0 and not attisdropped
            and has_column_privilege($1, $2, attname, $3) order by attnum",
    )
    .bind(role)
    .bind(table)
    .bind(class)
    .fetch_all(&database.owner)
    .await
    .unwrap();
    if columns.is_empty() {
        Right::No
    } else {
        Right::Columns(columns)
    }
}

async fn names(database: &Database, query: &'static str) -> Vec<String> {
    sqlx::query_scalar(query).fetch_all(&database.owner).await.unwrap()
}

async fn tables(database: &Database) -> Vec<String> {
    let query =
        "select relname::text from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p')
                    and (not relispartition or relname like '%\\_default') order by 1";
    names(database, query).await
}

async fn matrix(database: &Database) -> String {
    let mut matrix = String::new();
    for role in ROLES {
        for table in tables(database).await {
            let mut rights = String::new();
            for class in CLASSES {
                match right(database, role, &table, class).await {
                    Right::No => write!(rights, " -").unwrap(),
                    Right::Whole => write!(rights, " {class}").unwrap(),
                    Right::Columns(columns) => write!(rights, " {class}({})", columns.join(",")).unwrap(),
                }
            }
            writeln!(matrix, "{role:<15} {table:<21}{rights}").unwrap();
        }
    }
    let functions = "select p.oid::regprocedure || case when p.prosecdef then ' as its owner' else '' end
                       from pg_proc p where p.pronamespace = 'public'::regnamespace order by 1";
    let sequences =
        "select relname::text from pg_class where relnamespace = 'public'::regnamespace and relkind = 'S' order by 1";
    for role in ROLES {
        for function in names(database, functions).await {
            let name = function.trim_end_matches(" as its owner");
            let may = ask(database, "select has_function_privilege($1, $2, 'execute')", role, name).await;
            writeln!(matrix, "{role:<15} {:<7} {function}", if may { "calls" } else { "-" }).unwrap();
        }
        for sequence in names(database, sequences).await {
            let may = ask(
                database,
                "select has_sequence_privilege($1, $2, 'usage')",
                role,
                &sequence,
            )
            .await;
            writeln!(
                matrix,
                "{role:<15} {:<7} sequence {sequence}",
                if may { "uses" } else { "-" }
            )
            .unwrap();
        }
        let may = ask(
            database,
            "select has_schema_privilege($1, $2, 'create')",
            role,
            "public",
        )
        .await;
        writeln!(
            matrix,
            "{role:<15} {:<7} schema public",
            if may { "creates" } else { "-" }
        )
        .unwrap();
    }
    matrix
}

async fn ask(database: &Database, query: &'static str, role: &str, object: &str) -> bool {
    sqlx::query_scalar(query)
        .bind(role)
        .bind(object)
        .fetch_one(&database.owner)
        .await
        .unwrap()
}

#[tokio::test]
async fn the_rights_of_both_roles_are_the_committed_ones() {
    let database = Database::new().await;
    let matrix = matrix(&database).await;
    if std::env::var_os("OCTOPUS_WRITE_MATRIX").is_some() {
        std::fs::write(MATRIX, &matrix).unwrap();
    }
    let committed = std::fs::read_to_string(MATRIX).unwrap_or_default();
    let missing: Vec<_> = committed
        .lines()
        .filter(|line| !matrix.lines().any(|other| other == *line))
        .collect();
    let new: Vec<_> = matrix
        .lines()
        .filter(|line| !committed.lines().any(|other| other == *line))
        .collect();
    assert!(
        missing.is_empty() && new.is_empty(),
        "lost: {missing:#?}\nnew: {new:#?}\nIf this is meant: OCTOPUS_WRITE_MATRIX=1 cargo test -p octopus-tests --test it api_roles"
    );
}

/// Not what the catalogue says but what happens: each class is tried on each table.
#[tokio::test]
async fn the_rights_are_those_that_postgres_enforces() {
    let database = Database::new().await;
    let mut tried = 0;
    for (role, pool) in ROLES.into_iter().zip([&database.api, &database.manager]) {
        for table in tables(&database).await {
            for class in CLASSES {
                let right = right(&database, role, &table, class).await;
                let column = match &right {
                    Right::Columns(columns) => columns[0].clone(),
                    _ => first_column(&database, &table).await,
                };
                let statement = match class {
                    "select" => format!("select {column} from {table} limit 0"),
                    "insert" => format!("insert into {table} ({column}) select null where false"),
                    "update" => format!("update {table} set {column} = null where false"),
                    "delete" => format!("delete from {table} where false"),
                    _ => format!("truncate {table}"),
                };
                let mut transaction = octopus_shared::db::begin(pool).await.unwrap();
                let done = sqlx::raw_sql(AssertSqlSafe(statement.clone()))
                    .execute(&mut *transaction)
                    .await;
                transaction.rollback().await.unwrap();
                let refused = done
                    .as_ref()
                    .err()
                    .and_then(|error| error.as_database_error()?.code())
                    .is_some_and(|code| code == "42501");
                assert_eq!(refused, right == Right::No, "{role}: {statement}: {done:?}");
                assert!(refused || done.is_ok(), "{role}: {statement}: {done:?}");
                tried += 1;
            }
        }
    }
    assert!(tried >= 180, "{tried}");
}

async fn first_column(database: &Database, table: &str) -> String {
    // An identity column takes no value, not even none.
    let query =
        "select attname::text from pg_attribute where attrelid = $1::regclass and attnum > 0 and attidentity = ''
                  order by attnum limit 1";
    sqlx::query_scalar(query)
        .bind(table)
        .fetch_one(&database.owner)
        .await
        .unwrap()
}

#[tokio::test]
async fn partitions_are_reached_through_their_parents_only() {
    let database = Database::new().await;
    let reachable = names(
        &database,
        "select relname || ' ' || role || ' ' || class
           from pg_class, unnest(array['octopus_api', 'octopus_manager']) role,
                unnest(array['select', 'insert', 'update', 'delete', 'truncate']) class
          where relispartition and relkind = 'r' and relnamespace = 'public'::regnamespace
            and has_table_privilege(role, oid, class)",
    )
    .await;
    assert!(reachable.is_empty(), "{reachable:?}");
}
