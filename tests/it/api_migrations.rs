//! Migrations: together in several databases, again on the same one, and the logins of a deployment.

use octopus_api::admin::migrate::{execute, migrate, set_login};
use octopus_api::config::{Cli, Command};
use octopus_tests::postgres::Database;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions};

#[tokio::test]
async fn databases_of_one_server_can_be_migrated_at_once() {
    let databases = futures::future::join_all((0..6).map(|_| Database::empty())).await;
    let login = format!("it_login_{}", uuid::Uuid::new_v4().simple());
    let set_up = async |database: &Database| {
        let mut owner = database.owner.acquire().await.unwrap();
        migrate(&mut owner).await.unwrap();
        // Each alters the same role of the server.
        for group in ["octopus_api", "octopus_manager"].repeat(5) {
            set_login(&mut owner, &login, group, "word").await.unwrap();
        }
    };
    // The first database twice.
    futures::future::join_all(databases.iter().chain(&databases[..1]).map(set_up)).await;
    drop_role(&databases[0], &login).await;
}

#[tokio::test]
async fn a_login_has_its_password_and_its_group() {
    let database = Database::new().await;
    let mut owner = database.owner.acquire().await.unwrap();
    let login = format!("it_login_{}", uuid::Uuid::new_v4().simple());
    for password in ["first", r#"it's "odd" \ %L $$ ; drop table command; --"#] {
        set_login(&mut owner, &login, "octopus_api", password).await.unwrap();
        let left: String = sqlx::query_scalar("select current_setting('octopus.password')")
            .fetch_one(&mut *owner)
            .await
            .unwrap();
        assert_eq!(left, "");
        let options: PgConnectOptions = database.url.parse().unwrap();
        let mut connection = options.username(&login).password(password).connect().await.unwrap();
        sqlx::query("select count(*) from command")
            .execute(&mut connection)
            .await
            .unwrap();
        assert!(
            sqlx::query("delete from command")
                .execute(&mut connection)
                .await
                .is_err()
        );
    }
    drop_role(&database, &login).await;
}

async fn drop_role(database: &Database, role: &str) {
    sqlx::raw_sql(AssertSqlSafe(format!("drop role {role}")))
        .execute(&database.owner)
        .await
        .unwrap();
}

#[tokio::test]
async fn the_command_line_migrates() {
    use clap::Parser;
    let database = Database::empty().await;
    for _ in 0..2 {
        let cli = Cli::parse_from(["octopus-api", "migrate", "--database-url", &database.url]);
        let Command::Migrate(migrate) = cli.command else {
            panic!("another command")
        };
        execute(migrate).await.unwrap();
    }
    assert_eq!(octopus_shared::db::outdated(&database.api).await.unwrap(), None);
}
