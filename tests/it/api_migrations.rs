//! Migrations: together in several databases, again on the same one, and the logins of a deployment.

use octopus_api::admin::migrate::{MIGRATIONS, execute, set_login};
use octopus_api::config::{Cli, Command};
use octopus_tests::postgres::Database;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions};

#[tokio::test]
async fn databases_of_one_server_can_be_migrated_at_once() {
    let databases = futures::future::join_all((0..6).map(|_| Database::empty())).await;
    let migrated = futures::future::join_all(databases.iter().map(|database| MIGRATIONS.run(&database.owner))).await;
    for result in migrated {
        result.unwrap();
    }
    // Two at once on the same database, and again.
    let (one, other) = tokio::join!(MIGRATIONS.run(&databases[0].owner), MIGRATIONS.run(&databases[0].owner));
    one.unwrap();
    other.unwrap();
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
    sqlx::raw_sql(AssertSqlSafe(format!("drop role {login}")))
        .execute(&mut *owner)
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
    assert!(octopus_shared::db::view::is_migrated(&database.api).await.unwrap());
}
